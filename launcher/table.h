#pragma once

#include <string>
#include <vector>

namespace halfquad {

/// Text in aligned columns.
class Table {
 public:
  /// `alignment`: one 'l' or 'r' per column. Without headers the table has no title line.
  Table(std::string alignment, std::vector<std::string> headers);

  void add_row(std::vector<std::string> cells);
  [[nodiscard]] bool empty() const noexcept { return rows_.empty(); }
  /// Every line begins with `indent` spaces and ends with a newline, without trailing spaces.
  [[nodiscard]] std::string text(int indent) const;

 private:
  std::string alignment_;
  std::vector<std::string> headers_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace halfquad
