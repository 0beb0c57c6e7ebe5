#include <cmath>
#include <sstream>

#include <boost/json/array.hpp>
#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "launcher/report.h"
#include "launcher/summary.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_checkpoint.h"

namespace halfquad {
namespace {

ErrorSums sums_of(float abs, float square, float weight2, float max_abs) {
  ErrorSums sums;
  sums.abs.add(abs);
  sums.square.add(square);
  sums.weight2.add(weight2);
  sums.max_abs = max_abs;
  return sums;
}

TEST(ErrorFigures, FollowTheirDefinitions) {
  const ErrorFigures figures = error_figures(sums_of(8, 4, 400, 0.5F), 16);

  EXPECT_DOUBLE_EQ(figures.mean_abs, 0.5);
  EXPECT_DOUBLE_EQ(figures.relative.value(), 0.1);
  EXPECT_DOUBLE_EQ(figures.sqnr_db.value(), 20);
  EXPECT_DOUBLE_EQ(figures.max_abs, 0.5);
}

TEST(ErrorFigures, LeaveOutWhatIsInfinite) {
  EXPECT_EQ(error_figures(sums_of(0, 0, 400, 0), 16).relative, 0.0);
  EXPECT_FALSE(error_figures(sums_of(0, 0, 400, 0), 16).sqnr_db.has_value());
  EXPECT_EQ(error_figures(sums_of(0, 0, 0, 0), 16).relative, 0.0);
  EXPECT_FALSE(error_figures(sums_of(1, 1, 0, 1), 16).relative.has_value());
}

/// Two layers of 64 x 64 and an embedding, with results made up by hand.
class ReportTest : public ::testing::Test {
 protected:
  ReportTest() {
    test::put_file(directory_.path() / "config.json", R"({"model_type": "llama"})");
    test::put_safetensors(directory_.path() / "model.safetensors",
                          {test::random_tensor("model.embed_tokens.weight", DType::kBF16, {32, 64}),
                           test::random_tensor("model.layers.0.mlp.down_proj.weight", DType::kBF16, {64, 64}),
                           test::random_tensor("model.layers.0.mlp.up_proj.weight", DType::kBF16, {64, 64})});
    spec_.rules = {"up_proj=bits:2,solver:rtn"};
    Context context{*files_, stop_, out_, out_, {}};
    job_ = std::make_unique<Job>(prepare_job(context, directory_.path(), spec_, {}));

    TensorResult first;
    first.error = sums_of(8, 4, 400, 0.5F);
    first.steps = 17;
    first.stopped_early = true;
    first.zeroed = 3;
    TensorResult second;
    second.error = sums_of(0, 0, 400, 0);
    result_.tensors = {first, second};
    for (std::size_t i = 0; i < job_->layout.entries().size(); ++i) result_.checksums.emplace_back("0123456789abcdef");
    result_.tiles_reread = 2;
    result_.strips_redone = 3;
    facts_.seconds = 2;
    facts_.bytes_read = 4'000'000'000;
    facts_.output_bytes = 1234;
    facts_.threads = 5;
    facts_.solver = "reference";
  }

  [[nodiscard]] boost::json::object report() const {
    return build_report(*job_, spec_, result_, facts_, {"halfquad", "quantize", "m", "bad\xff"});
  }

  std::unique_ptr<FileSystem> files_ = make_posix_file_system();
  test::TempDir directory_;
  StopFlag stop_;
  std::ostringstream out_;
  SpecOptions spec_;
  std::unique_ptr<Job> job_;
  RunResult result_;
  RunFacts facts_;
};

TEST_F(ReportTest, IdentifiesItselfAndItsSource) {
  const boost::json::object made = report();

  EXPECT_EQ(made.at("format"), "halfquad-report");
  EXPECT_EQ(made.at("version"), 1);
  EXPECT_EQ(made.at("command").as_array().at(1), "quantize");
  EXPECT_EQ(made.at("command").as_array().at(3), "\"bad\\xff\"");
  const auto& file = made.at("source").at("files").as_array().at(0).as_object();
  EXPECT_EQ(file.at("name"), "model.safetensors");
  EXPECT_EQ(file.at("header_xxh3").as_string().size(), 16U);
  EXPECT_EQ(made.at("settings").at("scale_dtype"), "F16");
  EXPECT_EQ(made.at("settings").at("nonfinite"), "error");
}

TEST_F(ReportTest, DescribesEveryLayer) {
  const boost::json::array layers = report().at("layers").as_array();

  ASSERT_EQ(layers.size(), 2U);
  const auto& down = layers.at(0).as_object();
  EXPECT_EQ(down.at("module"), "model.layers.0.mlp.down_proj");
  EXPECT_EQ(down.at("shape"), (boost::json::array{64, 64}));
  EXPECT_EQ(down.at("bits"), "4");
  EXPECT_EQ(down.at("group_size"), 64);
  EXPECT_EQ(down.at("axis"), 1);
  EXPECT_EQ(down.at("solver"), "als");
  EXPECT_EQ(down.at("iters"), 4);
  EXPECT_EQ(down.at("round_zero"), true);
  EXPECT_EQ(down.at("per_tensor"), false);
  EXPECT_EQ(down.at("steps"), 17);
  EXPECT_EQ(down.at("stopped_early"), true);
  EXPECT_EQ(down.at("zeroed"), 3);
  EXPECT_DOUBLE_EQ(down.at("relative_error").as_double(), 0.1);
  EXPECT_DOUBLE_EQ(down.at("sqnr_db").as_double(), 20);
  const auto& up = layers.at(1).as_object();
  EXPECT_EQ(up.at("bits"), "2");
  EXPECT_EQ(up.at("solver"), "rtn");
  EXPECT_TRUE(up.at("sqnr_db").is_null());
}

TEST_F(ReportTest, AddsUpTotals) {
  const boost::json::object made = report();

  const auto& totals = made.at("totals").as_object();
  EXPECT_EQ(totals.at("source_bytes").to_number<int>(), 2 * (32 * 64 + 2 * 64 * 64));
  EXPECT_EQ(totals.at("output_bytes").to_number<int>(), 1234);
  EXPECT_EQ(totals.at("quantized_weights").to_number<int>(), 2 * 64 * 64);
  EXPECT_EQ(totals.at("kept_bytes").to_number<int>(), 2 * 32 * 64);
  // 64 groups a layer, each with an F16 scale and zero: half a bit a weight above the codes' 4 and 2.
  EXPECT_DOUBLE_EQ(totals.at("bits_per_weight").as_double(), 3.5);
  EXPECT_DOUBLE_EQ(totals.at("relative_error").as_double(), std::sqrt(4.0 / 800));
  EXPECT_DOUBLE_EQ(totals.at("read_gb_per_s").as_double(), 2);
  EXPECT_EQ(totals.at("layers_stopped_early").to_number<int>(), 1);
  EXPECT_EQ(totals.at("weights_zeroed").to_number<int>(), 3);
  EXPECT_EQ(totals.at("tiles_reread").to_number<int>(), 2);
  EXPECT_EQ(totals.at("strips_redone").to_number<int>(), 3);
  EXPECT_EQ(totals.at("threads").to_number<int>(), 5);
}

TEST_F(ReportTest, NamesWhatIsKeptAndEveryChecksum) {
  const boost::json::object made = report();

  const auto& kept = made.at("kept").as_array();
  ASSERT_EQ(kept.size(), 1U);
  EXPECT_EQ(kept.at(0).at("name"), "model.embed_tokens.weight");
  EXPECT_EQ(kept.at(0).at("bytes").to_number<int>(), 2 * 32 * 64);
  EXPECT_EQ(kept.at(0).at("reason"), "embedding");
  const auto& tensors = made.at("tensors").as_object();
  EXPECT_EQ(tensors.size(), job_->layout.entries().size());
  const auto& codes = tensors.at("model.layers.0.mlp.down_proj.W_q").as_object();
  EXPECT_EQ(codes.at("xxh3"), "0123456789abcdef");
  EXPECT_EQ(codes.at("run_bytes").to_number<int>(), 64 * 64 / 2);
  EXPECT_GT(codes.at("block_bytes").to_number<int>(), 0);
}

TEST_F(ReportTest, SummaryNamesSpecsReasonsSizesAndWorstLayers) {
  const std::string text = summary_text(*job_, result_, facts_, "out");

  for (const char* part : {"\"out\" is complete", "4 bit, group 64, als 5 starts of 4, columns weighted by themselves",
                           "2 bit, group 64, rtn", "embedding", "3.500 bits", "20.0 dB", "1 of 2 layers",
                           "model.layers.0.mlp.down_proj", "5 threads"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  }
}

TEST_F(ReportTest, DescribesSpecsThatAreNotTheDefault) {
  QuantSpec spec;
  spec.round_zero = true;
  EXPECT_EQ(describe(spec), "4 bit, group 64, hqq 20 steps");
  spec.axis = 0;
  spec.group_size = 0;
  spec.round_zero = false;
  EXPECT_EQ(describe(spec), "4 bit, whole columns, axis 0, hqq 20 steps, zero not rounded");
  spec.channel_wise = false;
  EXPECT_EQ(describe(spec), "4 bit, per tensor");
}

}  // namespace
}  // namespace halfquad
