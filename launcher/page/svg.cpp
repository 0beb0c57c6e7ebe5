#include "launcher/page/svg.h"

#include <utility>

#include <fmt/format.h>

#include "launcher/page/html.h"
#include "launcher/page/scale.h"

namespace halfquad::page {

Svg::Svg(double width, double height, std::string_view label)
    : out_(fmt::format("<svg viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" aria-label=\"{2}\">\n",
                       pixel(width), pixel(height), escaped(label))) {}

void Svg::rect(const Box& box, std::string_view css_class, std::string_view tip) {
  out_ += fmt::format("<rect class=\"{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"", css_class, pixel(box.x),
                      pixel(box.y), pixel(box.width), pixel(box.height));
  close("rect", tip);
}

void Svg::path(std::string_view commands, std::string_view css_class, std::string_view tip) {
  out_ += fmt::format("<path class=\"{}\" d=\"{}\"", css_class, commands);
  close("path", tip);
}

void Svg::circle(double x, double y, double radius, std::string_view css_class) {
  out_ += fmt::format("<circle class=\"{}\" cx=\"{}\" cy=\"{}\" r=\"{}\"/>\n", css_class, pixel(x), pixel(y),
                      pixel(radius));
}

void Svg::line(const Box& from_and_size, std::string_view css_class) {
  const Box& box = from_and_size;
  out_ += fmt::format("<line class=\"{}\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>\n", css_class, pixel(box.x),
                      pixel(box.y), pixel(box.x + box.width), pixel(box.y + box.height));
}

void Svg::text(const Place& place, std::string_view css_class, std::string_view text) {
  const std::string_view anchor = place.anchor == Anchor::kStart    ? ""
                                  : place.anchor == Anchor::kMiddle ? " text-anchor=\"middle\""
                                                                    : " text-anchor=\"end\"";
  out_ += fmt::format("<text class=\"{}\" x=\"{}\" y=\"{}\"{}>{}</text>\n", css_class, pixel(place.x), pixel(place.y),
                      anchor, escaped(text));
}

void Svg::upward_text(double x, double y, std::string_view css_class, std::string_view text) {
  out_ +=
      fmt::format("<text class=\"{}\" text-anchor=\"middle\" transform=\"translate({} {}) rotate(-90)\">{}</text>\n",
                  css_class, pixel(x), pixel(y), escaped(text));
}

void Svg::close(std::string_view element, std::string_view tip) {
  out_ += tip.empty() ? "/>\n" : fmt::format("><title>{}</title></{}>\n", escaped(tip), element);
}

std::string Svg::finish() && { return std::move(out_) + "</svg>"; }

}  // namespace halfquad::page
