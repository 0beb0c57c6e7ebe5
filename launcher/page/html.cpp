#include "launcher/page/html.h"

#include <cstdint>
#include <utility>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad::page {
namespace {

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U; }

/// The character of valid UTF-8 at `at`, which moves behind it.
char32_t next_character(std::string_view text, std::size_t& at) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[i])); };
  const char32_t first = byte(at++);
  if (first < 0x80) return first;
  char32_t value = first < 0xE0 ? first & 0x1FU : first < 0xF0 ? first & 0x0FU : first & 0x07U;
  while (at < text.size() && continues(text[at])) value = value << 6U | (byte(at++) & 0x3FU);
  return value;
}

bool is_control(char32_t c) { return c < 0x20 || (c >= 0x7F && c < 0xA0); }

/// What shows nothing, or changes how other text is shown.
bool is_invisible(char32_t c) {
  return c == 0xAD || (c >= 0x200B && c <= 0x200F) || (c >= 0x2028 && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F) ||
         c == 0x061C || c == 0xFEFF || (c >= 0xFFF9 && c <= 0xFFFB) || (c >= 0xE0000 && c <= 0xE007F) ||
         (c & 0xFFFEU) == 0xFFFEU;
}

std::string_view markup(char c) {
  switch (c) {
    case '&':
      return "&amp;";
    case '<':
      return "&lt;";
    case '>':
      return "&gt;";
    case '"':
      return "&quot;";
    case '\'':
      return "&#39;";
    default:
      return {};
  }
}

}  // namespace

std::string visible(std::string_view text) {
  const std::string shown = is_utf8(text) ? std::string(text) : quoted(text);
  std::string out;
  for (std::size_t at = 0; at < shown.size();) {
    const std::size_t begin = at;
    const char32_t c = next_character(shown, at);
    if (c == '\n') {
      out += "\\n";
    } else if (is_control(c)) {
      out += fmt::format("\\x{:02x}", static_cast<std::uint32_t>(c));
    } else if (is_invisible(c)) {
      out += fmt::format("\\u{:04x}", static_cast<std::uint32_t>(c));
    } else {
      out.append(shown, begin, at - begin);
    }
  }
  return out;
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : visible(text)) {
    const std::string_view entity = markup(c);
    entity.empty() ? out += c : out += entity;
  }
  return out;
}

std::size_t characters(std::string_view text) noexcept {
  std::size_t count = 0;
  for (const char c : text) count += continues(c) ? 0U : 1U;
  return count;
}

std::string shortened(std::string_view text, std::size_t most) {
  const std::string whole = visible(text);
  const std::size_t length = characters(whole);
  if (length <= most) return whole;
  // The end of a name says more than its beginning.
  const std::size_t head = (most - 1) / 3;
  const std::size_t tail = most - 1 - head;
  std::string begin, end;
  std::size_t index = 0;
  for (const char c : whole) {
    if (!continues(c)) ++index;  // of the character, from 1
    if (index <= head) begin += c;
    if (index > length - tail) end += c;
  }
  return begin + "…" + end;
}

std::string code(std::string_view text) { return fmt::format("<code>{}</code>", escaped(text)); }

HtmlTable::HtmlTable(std::string caption, std::vector<Column> columns)
    : caption_(std::move(caption)), columns_(std::move(columns)) {}

void HtmlTable::add_row(const std::vector<std::string>& cells) {
  HALFQUAD_REQUIRE(cells.size() == columns_.size(), kInternal, "a table row has the wrong number of cells");
  rows_ += "<tr>";
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const std::string_view kind = columns_[i].is_number ? " class=\"n\"" : "";
    rows_ += i == 0 ? fmt::format("<th scope=\"row\"{}>{}</th>", kind, cells[i])
                    : fmt::format("<td{}>{}</td>", kind, cells[i]);
  }
  rows_ += "</tr>\n";
}

std::string HtmlTable::html() const {
  const std::string caption = escaped(caption_);
  std::string text = fmt::format(
      "<div class=\"scroll\" role=\"region\" aria-label=\"{0}\" tabindex=\"0\"><table><caption>{0}</caption>\n"
      "<thead><tr>",
      caption);
  for (const Column& column : columns_) {
    text += fmt::format("<th scope=\"col\"{}>{}</th>", column.is_number ? " class=\"n\"" : "", column.header);
  }
  return text + "</tr></thead>\n<tbody>\n" + rows_ + "</tbody></table></div>\n";
}

std::string figure(const Figure& parts) {
  const std::string title = escaped(parts.title);
  return fmt::format(
      "<figure>\n<figcaption><h3>{0}</h3><p>{1}</p></figcaption>\n"
      "<div class=\"scroll chart\" role=\"region\" aria-label=\"Chart: {0}\" tabindex=\"0\">{2}</div>\n{3}"
      "<details><summary>Data table<span class=\"hidden\"> of {0}</span></summary>\n{4}</details>\n</figure>\n",
      title, parts.text, parts.svg, parts.legend, parts.table);
}

std::string legend_entry(std::string_view css_class, std::string_view text) {
  return legend_entry_of(
      fmt::format("<svg width=\"14\" height=\"14\"><rect class=\"{}\" width=\"14\" height=\"14\" rx=\"2\"/></svg>",
                  css_class),
      text);
}

std::string legend_entry_of(std::string_view picture, std::string_view text) {
  return fmt::format("<li><span class=\"swatch\" aria-hidden=\"true\">{}</span>{}</li>", picture, escaped(text));
}

std::string legend(const std::vector<std::string>& entries) {
  std::string text = "<ul class=\"legend\">";
  for (const std::string& entry : entries) text += entry;
  return text + "</ul>\n";
}

}  // namespace halfquad::page
