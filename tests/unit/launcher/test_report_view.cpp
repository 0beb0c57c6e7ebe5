#include <cmath>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/output_report.h"
#include "launcher/page/page.h"
#include "launcher/report_comparison.h"
#include "launcher/report_export.h"
#include "launcher/report_text.h"
#include "launcher/report_view.h"
#include "tests/support/expect_error.h"
#include "tests/unit/launcher/sample_report.h"

namespace halfquad {
namespace {

using test::parsed;
using test::sample_layer;
using test::sample_report;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ReportedLayer layer(const std::string& module, std::optional<double> error, std::int64_t rows = 64) {
  boost::json::object report = sample_report();
  report["layers"] = {sample_layer(module, error.value_or(0), rows)};
  if (!error) report.at("layers").as_array()[0].as_object()["relative_error"] = nullptr;
  return parsed(report).layers[0];
}

TEST(PlaceOf, FindsBlockAndProjection) {
  EXPECT_EQ(place_of("model.layers.12.self_attn.q_proj"), (ModulePlace{"model.layers", 12, "self_attn.q_proj"}));
  EXPECT_EQ(place_of("blk.3.ffn_up_exps.17"), (ModulePlace{"blk", 3, "ffn_up_exps.*"}));
  EXPECT_EQ(place_of("model.layers.3.mlp.experts.255.up_proj"),
            (ModulePlace{"model.layers", 3, "mlp.experts.*.up_proj"}));
  EXPECT_EQ(place_of("lm_head"), (ModulePlace{"", std::nullopt, "lm_head"}));
  EXPECT_EQ(place_of("layers.7"), (ModulePlace{"layers", 7, ""}));
}

TEST(PlaceOf, TakesOddNamesAsTheyAre) {
  EXPECT_EQ(place_of(""), (ModulePlace{"", std::nullopt, ""}));
  EXPECT_EQ(place_of("5.w"), (ModulePlace{"", 5, "w"}));
  EXPECT_EQ(place_of("a.99999999999999999999.b"), (ModulePlace{"", std::nullopt, "a.99999999999999999999.b"}));
  EXPECT_EQ(place_of("a.-1.b"), (ModulePlace{"", std::nullopt, "a.-1.b"}));
}

TEST(ModuleGroup, WeighsSquaredErrors) {
  ModuleGroup group;
  group.add(4, layer("a.0.x", 0.3, 64));
  group.add(5, layer("a.1.x", 0.1, 192));

  EXPECT_NEAR(group.relative_error().value(), std::sqrt((0.09 * 1 + 0.01 * 3) / 4), 1e-15);
  EXPECT_EQ(group.least_error(), 0.1);
  EXPECT_EQ(group.worst_error(), 0.3);
  EXPECT_EQ(group.worst(), 4U);
  EXPECT_DOUBLE_EQ(group.bits_per_weight(), 4.5);
}

TEST(ModuleGroup, LeavesUndefinedErrorsOut) {
  ModuleGroup group;
  group.add(0, layer("a.0.x", std::nullopt));
  EXPECT_FALSE(group.relative_error().has_value());
  EXPECT_FALSE(group.worst().has_value());

  group.add(1, layer("a.1.x", 0.25));
  EXPECT_DOUBLE_EQ(group.relative_error().value(), 0.25);
  EXPECT_EQ(group.modules(), 2U);
  EXPECT_EQ(group.undefined(), 1U);
}

TEST(ReportView, PutsExpertsTogether) {
  boost::json::object report = sample_report();
  boost::json::array layers;
  for (const int block : {10, 2}) {
    layers.push_back(sample_layer("m.layers." + std::to_string(block) + ".q", 0.05));
    for (int expert = 0; expert < 4; ++expert) {
      layers.push_back(sample_layer("m.layers." + std::to_string(block) + ".experts." + std::to_string(expert) + ".up",
                                    0.1 + 0.01 * expert));
    }
  }
  layers.push_back(sample_layer("lm_head", 0.5));
  report["layers"] = layers;
  const ReportFile file = parsed(report);

  const ReportView view = view_of(file);

  ASSERT_EQ(view.stacks.size(), 1U);
  const Stack& stack = view.stacks[0];
  EXPECT_EQ(stack.name, "m.layers");
  EXPECT_THAT(stack.layers, ElementsAre(2, 10));
  EXPECT_THAT(stack.projections, ElementsAre("q", "experts.*.up"));
  ASSERT_NE(stack.cell(10, 1), nullptr);
  EXPECT_EQ(stack.cell(10, 1)->modules(), 4U);
  EXPECT_EQ(stack.cell(10, 1)->worst_error(), 0.13);
  EXPECT_EQ(stack.cell(3, 0), nullptr);
  EXPECT_THAT(view.outside, ElementsAre(10));
  EXPECT_EQ(view.by_error.front(), 10U);
  EXPECT_EQ(view.by_error[1], 4U);  // expert 3 of the block that comes first
}

TEST(ReportView, GroupsSettingsAndKeptTensors) {
  boost::json::object report = sample_report();
  boost::json::object other = sample_layer("model.layers.2.mlp.up_proj", 0.2, 32);
  other["axis"] = 0;
  report.at("layers").as_array().push_back(other);
  report.at("kept").as_array().push_back({{"name", "embed"}, {"bytes", 9000}, {"reason", "embedding"}});
  report.at("kept").as_array().push_back({{"name", "model.norm2.weight"}, {"bytes", 10}, {"reason", "norm"}});
  const ReportFile file = parsed(report);

  const ReportView view = view_of(file);

  ASSERT_EQ(view.settings.size(), 2U);
  EXPECT_EQ(view.settings[0].text, "4 bit, whole rows, hqq");
  EXPECT_EQ(view.settings[1].text, "4 bit, groups of 64 along axis 0, hqq");
  ASSERT_EQ(view.kept.size(), 2U);
  EXPECT_EQ(view.kept[0].reason, "embedding");
  EXPECT_EQ(view.kept[1].tensors, 2U);
  EXPECT_EQ(view.kept[1].bytes, 3010U);
}

TEST(ReportView, FingerprintFollowsNamesAndChecksums) {
  boost::json::object report = sample_report();
  const auto fingerprint = [&report] {
    const ReportFile file = parsed(report);
    return view_of(file).fingerprint;
  };
  const std::string before = fingerprint();
  report.at("tensors").as_object()["model.layers.0.mlp.up_proj.W_q"].as_object()["xxh3"] = "00000000000000ab";

  EXPECT_EQ(before.size(), 16U);
  EXPECT_NE(fingerprint(), before);
}

TEST(ReportFile, ReadsReportsOfOlderVersions) {
  boost::json::object report = sample_report();
  report.erase("ranks");
  report.erase("assembly");
  report.at("settings").as_object().erase("format");
  for (auto& entry : report.at("layers").as_array()) entry.as_object().erase("stored_bytes");

  const ReportFile file = parsed(report);

  EXPECT_TRUE(file.format.empty());
  EXPECT_TRUE(file.ranks.empty());
  EXPECT_EQ(file.layers[0].bits_per_weight(), 4.0);
}

TEST(ReportFile, NamesWhatIsDamaged) {
  const auto refused = [](auto change) {
    boost::json::object report = sample_report();
    change(report);
    return [report] { static_cast<void>(parsed(report)); };
  };
  using Object = boost::json::object;
  test::expect_error(ErrorCode::kBadInput,
                     {"halfquad_report.json", "is malformed", "\"totals\" has no \"output_bytes\""},
                     refused([](Object& r) { r.at("totals").as_object().erase("output_bytes"); }));
  test::expect_error(ErrorCode::kBadInput, {"\"layers[1].relative_error\" is not a non-negative number"},
                     refused([](Object& r) { r.at("layers").as_array()[1].as_object()["relative_error"] = -1; }));
  test::expect_error(ErrorCode::kBadInput, {"\"layers[0].bits\" is not a width of codes"},
                     refused([](Object& r) { r.at("layers").as_array()[0].as_object()["bits"] = "7"; }));
  test::expect_error(ErrorCode::kBadInput, {"has the layer \"model.layers.0.mlp.up_proj\" twice"},
                     refused([](Object& r) { r.at("layers").as_array()[1] = r.at("layers").as_array()[0]; }));
  test::expect_error(ErrorCode::kBadInput, {"version 2", "reads version 1"},
                     refused([](Object& r) { r["version"] = 2; }));
  test::expect_error(ErrorCode::kBadInput, {"is not halfquad-report"},
                     refused([](Object& r) { r["format"] = "halfquad-verify"; }));
  test::expect_error(ErrorCode::kBadInput, {"the JSON text ends early at byte"},
                     [] { static_cast<void>(parse_report_file("{\"format\": ", "out/halfquad_report.json", "out")); });
}

TEST(ShortNames, TellOutputsApart) {
  const auto names = [](const std::vector<std::string>& outputs) {
    std::vector<ReportFile> files(outputs.size());
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      files[i].output = outputs[i];
      files[i].path = "halfquad_report.json";
    }
    return short_names(files);
  };
  EXPECT_THAT(names({"/a/b/one", "two/"}), ElementsAre("one", "two"));
  EXPECT_THAT(names({"/a/out", "/b/out"}), ElementsAre("a/out", "b/out"));
  EXPECT_THAT(names({"/a/m4/halfquad_report.json"}), ElementsAre("m4"));
  EXPECT_THAT(names({"same", "same"}), ElementsAre("same (1)", "same (2)"));
}

TEST(Comparison, MatchesLayersByName) {
  boost::json::object second = sample_report();
  second["layers"] = {sample_layer("model.layers.0.mlp.up_proj", 0.02),
                      sample_layer("model.layers.1.mlp.up_proj", 0.11),
                      sample_layer("model.layers.2.mlp.up_proj", 0.1)};
  second.at("tensors").as_object()["other"] = {{"xxh3", "00000000000000aa"}, {"run_bytes", 1}, {"block_bytes", 1}};

  const OutputDifference difference = difference_of(parsed(sample_report()), parsed(second));

  EXPECT_EQ(difference.common, 2U);
  EXPECT_EQ(difference.only_first, 0U);
  EXPECT_EQ(difference.only_second, 1U);
  EXPECT_EQ(difference.better, 1U);
  EXPECT_EQ(difference.worse, 1U);
  ASSERT_EQ(difference.changes.size(), 2U);
  EXPECT_EQ(difference.changes[0].module, "model.layers.0.mlp.up_proj");
  EXPECT_EQ(difference.same_tensors, 1U);
  EXPECT_EQ(difference.tensors_of_one, 1U);
}

TEST(Comparison, PutsOtherwiseNamedStacksSideBySide) {
  boost::json::object second = sample_report();
  second["layers"] = {sample_layer("blk.0.ffn_up", 0.02)};
  const ReportFile a = parsed(sample_report());
  const ReportFile b = parsed(second);
  const ReportView first = view_of(a);
  const ReportView other = view_of(b);

  EXPECT_EQ(stack_beside(first.stacks[0], first, first), &first.stacks[0]);
  EXPECT_EQ(stack_beside(first.stacks[0], first, other), &other.stacks[0]);
  EXPECT_DOUBLE_EQ(relative_change(0.1, 0.11).value(), 0.11 / 0.1 - 1);
  EXPECT_FALSE(relative_change(0.0, 0.1).has_value());
}

OutputReport output_of(const ReportFile& file, const std::string& name) {
  return {.name = name, .view = view_of(file), .time_line = {}, .histograms = {}, .histogram_note = {}};
}

TEST(ReportText, FitsATerminal) {
  boost::json::object report = sample_report();
  report.at("layers").as_array().push_back(
      sample_layer("model.layers.1." + std::string(300, 'x') + "\x1b[31m<b>", 0.3));
  const ReportFile file = parsed(report);
  const std::vector<OutputReport> outputs = {output_of(file, std::string(100, 'n')), output_of(file, "second")};

  for (const std::string& text : {report_text(std::span(outputs).first(1)), report_text(outputs)}) {
    EXPECT_EQ(text.find('\x1b'), std::string::npos);
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = text.find('\n', begin);
      EXPECT_LE(end - begin, kReportColumns) << text.substr(begin, end - begin);
      begin = end + 1;
    }
  }
}

TEST(ReportCsv, QuotesNamesAndLeavesUndefinedFieldsEmpty) {
  boost::json::object report = sample_report();
  boost::json::object odd = sample_layer("a.3.say \"hi\", you\n", 0.25);
  odd["sqnr_db"] = nullptr;
  report["layers"] = {odd};
  const ReportFile file = parsed(report);
  const std::vector<OutputReport> outputs = {output_of(file, "out")};

  const std::string csv = report_csv(outputs);

  EXPECT_THAT(csv, HasSubstr("\r\n\"out\",\"a.3.say \"\"hi\"\", you\n\",\"a\",3,\"say \"\"hi\"\", you\n\",64,64,4,64,1,"
                             "\"hqq\",4.5,0.25,,0.025,0.125,12,1,0,0.25,\r\n"));
}

TEST(ReportJson, HoldsCellsAndDifferences) {
  const ReportFile file = parsed(sample_report());
  const std::vector<OutputReport> outputs = {output_of(file, "a"), output_of(file, "b")};

  const boost::json::value json = report_json(outputs);

  EXPECT_EQ(json.at("format"), "halfquad-report-summary");
  const auto& cell = json.at("outputs").at(0).at("stacks").at(0).at("cells").at(1);
  EXPECT_EQ(cell.at("block"), 1);
  EXPECT_EQ(cell.at("projection"), "mlp.up_proj");
  EXPECT_EQ(cell.at("worst_module"), "model.layers.1.mlp.up_proj");
  EXPECT_EQ(json.at("differences").at(0).at("equal_errors"), 2);
}

TEST(OutputReport, SaysWeightedErrorsWhereThereAreSome) {
  boost::json::object report = sample_report();
  report.at("totals").as_object()["weighted_relative_error"] = 0.0712;
  report.at("layers").as_array()[0].as_object()["weighted_relative_error"] = 0.0625;
  const ReportFile weighted = parsed(report);
  const ReportFile plain = parsed(sample_report());
  const auto both = [](const ReportFile& file, const auto& write) {
    const std::vector<OutputReport> outputs = {output_of(file, "out")};
    return write(std::span<const OutputReport>(outputs));
  };

  const auto text = [](std::span<const OutputReport> outputs) { return report_text(outputs); };
  EXPECT_THAT(both(weighted, text), HasSubstr("relative 0.08310 (weighted 0.07120), SQNR"));
  EXPECT_THAT(both(weighted, text), HasSubstr("0.06250"));
  EXPECT_THAT(both(plain, text), HasSubstr("relative 0.08310, SQNR"));
  const auto csv = [](std::span<const OutputReport> outputs) { return report_csv(outputs); };
  EXPECT_THAT(both(weighted, csv), HasSubstr(",0.25,0.0625\r\n"));
  EXPECT_THAT(both(plain, csv), HasSubstr(",0.25,\r\n"));
  const auto json = [](std::span<const OutputReport> outputs) { return report_json(outputs).at("outputs").at(0); };
  EXPECT_EQ(both(weighted, json).at("totals").at("weighted_relative_error"), 0.0712);
  EXPECT_TRUE(both(plain, json).at("totals").at("weighted_relative_error").is_null());
  const auto page = [](std::span<const OutputReport> outputs) { return page::report_page(outputs); };
  EXPECT_THAT(both(weighted, page), HasSubstr("; weighted 0.07120<"));
  EXPECT_THAT(both(weighted, page), HasSubstr("0.06250"));
}

TEST(ShellText, QuotesWhatAShellWouldTakeApart) {
  EXPECT_EQ(shell_text({"halfquad", "my model", "it's", "", "a$b", "--rule=x:1"}),
            "halfquad 'my model' 'it'\\''s' '' 'a$b' --rule=x:1");
}

}  // namespace
}  // namespace halfquad
