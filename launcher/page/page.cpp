#include "launcher/page/page.h"

#include <utility>
#include <vector>

#include <fmt/format.h>

#include "launcher/human_count.h"
#include "launcher/page/sections.h"
#include "launcher/page/style.h"
#include "launcher/version.h"
#include "runtime/text.h"

namespace halfquad::page {
namespace {

struct Page {
  std::string title, lead, tiles;  // plain text, plain text, HTML
  std::vector<Section> sections;
};

std::string tile(std::string_view name, std::string_view value, std::string_view more) {
  return fmt::format("<div><dt>{}</dt><dd class=\"big\">{}</dd><dd class=\"small\">{}</dd></div>\n", name,
                     escaped(value), escaped(more));
}

std::string tiles_of(const OutputReport& output) {
  const ReportFile::Totals& totals = output.file().totals;
  const std::size_t layers = output.file().layers.size();
  const std::size_t kept = output.file().kept.size();
  const std::size_t ranks = output.file().ranks.size();
  return tile("Size", human_bytes(totals.output_bytes),
              percent_text(static_cast<double>(totals.output_bytes), static_cast<double>(totals.source_bytes)) +
                  " of " + human_bytes(totals.source_bytes)) +
         tile("Bits per weight", bits_text(totals.bits_per_weight),
              human_count(totals.quantized_weights) + " weights quantized") +
         tile("Relative error", error_text(totals.relative_error),
              totals.weighted_relative_error
                  ? "of the quantized layers' weights; weighted " + error_text(totals.weighted_relative_error)
                  : "of the quantized layers' weights") +
         tile("SQNR", decibel_text(totals.sqnr_db), fmt::format("largest error {:.3g}", totals.max_abs_error)) +
         tile("Layers", fmt::format("{}", layers),
              fmt::format("{} tensor{} kept as they are", kept, kept == 1 ? "" : "s")) +
         tile("Time", seconds_text(totals.seconds),
              fmt::format("{} rank{}, {} thread{} each", ranks, ranks == 1 ? "" : "s", totals.threads,
                          totals.threads == 1 ? "" : "s"));
}

Page page_of(const OutputReport& output) {
  return {.title = output.name,
          .lead = what_it_is(output),
          .tiles = "<dl class=\"tiles\">\n" + tiles_of(output) + "</dl>\n",
          .sections = {size_section(output), error_section(output), worst_section(output), bits_section(output),
                       time_section(output), facts_section(output), definitions_section()}};
}

Page page_of(std::span<const OutputReport> outputs) {
  std::string title;
  for (const OutputReport& output : outputs) title += (title.empty() ? "" : " · ") + output.name;
  return {.title = std::move(title),
          .lead = fmt::format("{} outputs compared", outputs.size()),
          .tiles = "",
          .sections = {outputs_section(outputs), layers_section(outputs), change_section(outputs),
                       origins_section(outputs), definitions_section()}};
}

std::string navigation(const std::vector<Section>& sections) {
  std::string text = "<nav aria-label=\"Sections\"><ul>";
  for (const Section& section : sections) {
    text += fmt::format("<li><a href=\"#{}\">{}</a></li>", section.id, escaped(section.title));
  }
  return text + "</ul></nav>\n";
}

// The policy keeps a browser from asking anyone for anything, whatever a model's names may hold.
constexpr char kHead[] =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src "
    "data:\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n";

}  // namespace

std::string report_page(std::span<const OutputReport> outputs) {
  const Page page = outputs.size() == 1 ? page_of(outputs[0]) : page_of(outputs);
  std::string text = kHead;
  text += fmt::format("<title>{} - halfquad report</title>\n<style>\n{}</style>\n</head>\n<body>\n",
                      escaped(page.title), kStyle);
  text += "<a class=\"skip\" href=\"#content\">Skip to content</a>\n";
  text += fmt::format(
      "<header><div class=\"wrap\"><p class=\"mark-line\"><b>halfquad</b> {}</p>\n<h1>{}</h1>\n<p "
      "class=\"lead\">{}</p>\n{}</div></header>\n",
      outputs.size() == 1 ? "quantization report" : "comparison", escaped(page.title), escaped(page.lead),
      navigation(page.sections));
  text += "<main id=\"content\" class=\"wrap\">\n" + page.tiles;
  for (const Section& section : page.sections) {
    text += fmt::format(
        "<section id=\"{0}\" aria-labelledby=\"{0}-title\">\n<h2 id=\"{0}-title\">{1}</h2>\n{2}</section>\n",
        section.id, escaped(section.title), section.content);
  }
  return text + fmt::format(
                    "</main>\n<footer><div class=\"wrap\">Made by halfquad report, version {}. Data tables below "
                    "the charts have the same figures.</div></footer>\n</body>\n</html>\n",
                    HALFQUAD_VERSION);
}

}  // namespace halfquad::page
