#pragma once

#include <functional>
#include <string>
#include <vector>

#include <boost/json/object.hpp>

namespace halfquad {

/// One step of what tokenizers do to a text before they divide it.
using NormalizerStep = std::function<std::string(std::string)>;

/// The steps under "normalizer" of a tokenizer.json: Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Prepend and Replace.
/// Throws kBadInput naming a step that is not known.
[[nodiscard]] std::vector<NormalizerStep> parse_normalizer(const boost::json::object& tokenizer);

[[nodiscard]] std::string normalized(const std::vector<NormalizerStep>& steps, std::string text);

}  // namespace halfquad
