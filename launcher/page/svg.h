#pragma once

#include <string>
#include <string_view>

namespace halfquad::page {

/// An inline SVG picture that is put together shape by shape. Colors and fonts are the page's, by class.
class Svg {
 public:
  struct Box {
    double x = 0, y = 0, width = 0, height = 0;
  };
  enum class Anchor { kStart, kMiddle, kEnd };
  struct Place {
    double x = 0, y = 0;  ///< Of the anchor on the base line.
    Anchor anchor = Anchor::kStart;
  };

  /// `label`: what assistive technology says of it, plain text.
  Svg(double width, double height, std::string_view label);

  /// `tip`: plain text shown when pointed at, or nothing.
  void rect(const Box& box, std::string_view css_class, std::string_view tip = {});
  void path(std::string_view commands, std::string_view css_class, std::string_view tip = {});
  void circle(double x, double y, double radius, std::string_view css_class);
  void line(const Box& from_and_size, std::string_view css_class);
  void text(const Place& place, std::string_view css_class, std::string_view text);
  /// Text whose middle is at (x, y), written upwards.
  void upward_text(double x, double y, std::string_view css_class, std::string_view text);

  [[nodiscard]] std::string finish() &&;

 private:
  void close(std::string_view element, std::string_view tip);

  std::string out_;
};

/// Pixels of `characters` characters: about, for labels in the page's fixed-width font.
inline constexpr double kLabelCharacter = 6.7;

}  // namespace halfquad::page
