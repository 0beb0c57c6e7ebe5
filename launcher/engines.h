#pragma once

#include <span>
#include <string>
#include <string_view>

namespace halfquad {

/// What a format holds and which engines load it: the rows of the table in README.md, word for word.
struct FormatSupport {
  std::string_view format;
  std::string_view holds;
  std::string_view loaded_by;
  bool vocabulary = false;  ///< Embedding and output head may be quantized, too.
};
[[nodiscard]] std::span<const FormatSupport> format_support();
[[nodiscard]] bool holds_vocabulary(std::string_view format);
/// Of one format, for a terminal: without the marks that README sets code in.
[[nodiscard]] std::string loaded_by(std::string_view format);

}  // namespace halfquad
