#include "launcher/table.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "runtime/check.h"

namespace halfquad {
namespace {

void append_line(std::string& text, const std::vector<std::string>& cells, const std::vector<std::size_t>& widths,
                 const std::string& alignment, std::size_t indent) {
  std::string line(indent, ' ');
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const std::string padding(widths[i] - cells[i].size(), ' ');
    if (i > 0) line += "  ";
    line += alignment[i] == 'r' ? padding + cells[i] : cells[i] + padding;
  }
  line.erase(line.find_last_not_of(' ') + 1);
  text += line + '\n';
}

}  // namespace

Table::Table(std::string alignment, std::vector<std::string> headers)
    : alignment_(std::move(alignment)), headers_(std::move(headers)) {}

void Table::add_row(std::vector<std::string> cells) {
  HALFQUAD_REQUIRE(cells.size() == alignment_.size(), kInternal, "a table row has the wrong number of cells");
  rows_.push_back(std::move(cells));
}

std::string Table::text(int indent) const {
  std::vector<std::size_t> widths(alignment_.size(), 0);
  const auto widen = [&widths](const std::vector<std::string>& cells) {
    for (std::size_t i = 0; i < cells.size(); ++i) widths[i] = std::max(widths[i], cells[i].size());
  };
  widen(headers_);
  for (const auto& row : rows_) widen(row);

  std::string text;
  const auto spaces = static_cast<std::size_t>(indent);
  if (!headers_.empty()) append_line(text, headers_, widths, alignment_, spaces);
  for (const auto& row : rows_) append_line(text, row, widths, alignment_, spaces);
  return text;
}

}  // namespace halfquad
