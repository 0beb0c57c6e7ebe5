#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace halfquad::page {

/// `text` with control characters, line ends, invisible characters and those that turn the direction of writing shown
/// as \x1b or \u202e; what is not UTF-8 as quoted() shows it.
[[nodiscard]] std::string visible(std::string_view text);

/// `text`, made visible, as content or attribute value of HTML and SVG.
[[nodiscard]] std::string escaped(std::string_view text);

/// At most `most` characters of visible(text), the middle given up for "…". @pre most >= 3.
[[nodiscard]] std::string shortened(std::string_view text, std::size_t most);
/// Characters of UTF-8.
[[nodiscard]] std::size_t characters(std::string_view text) noexcept;

/// `text` escaped, in a code element that may break anywhere.
[[nodiscard]] std::string code(std::string_view text);

/// A table with a caption and row headers. Cells are HTML.
class HtmlTable {
 public:
  struct Column {
    std::string header;  ///< HTML.
    bool is_number = false;
  };
  /// `caption`: plain text.
  HtmlTable(std::string caption, std::vector<Column> columns);

  void add_row(const std::vector<std::string>& cells);
  [[nodiscard]] bool empty() const noexcept { return rows_.empty(); }
  /// In a region of its own, which scrolls when the page is narrow.
  [[nodiscard]] std::string html() const;

 private:
  std::string caption_;
  std::vector<Column> columns_;
  std::string rows_;
};

/// A chart with all that belongs to it.
struct Figure {
  std::string title;   ///< Plain text.
  std::string text;    ///< HTML: what it shows.
  std::string svg;     ///< With a size of its own: scrolls when the page is narrower.
  std::string legend;  ///< HTML, or nothing.
  std::string table;   ///< HTML: the same as figures.
};
[[nodiscard]] std::string figure(const Figure& parts);

/// One entry of a legend: a swatch filled as `css_class` says.
[[nodiscard]] std::string legend_entry(std::string_view css_class, std::string_view text);
/// The same with another picture, an SVG element, for the swatch.
[[nodiscard]] std::string legend_entry_of(std::string_view picture, std::string_view text);
[[nodiscard]] std::string legend(const std::vector<std::string>& entries);

}  // namespace halfquad::page
