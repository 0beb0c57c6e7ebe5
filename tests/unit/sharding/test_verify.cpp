#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sharding/verify.h"
#include "tests/support/expect_error.h"
#include "tests/unit/sharding/tiny_output.h"

namespace halfquad {
namespace {

using test::TinyOutput;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

enum class With { kReport, kSource, kBoth };

VerifyResult verify(const TinyOutput& tiny, With with, VerifyOptions options = {}) {
  const QuantizedModel output(*tiny.fs, tiny.output_path);
  std::optional<boost::json::object> report;
  if (with != With::kSource) report = tiny.report;
  std::optional<Checkpoint> source;
  if (with != With::kReport) source.emplace(*tiny.fs, tiny.source_path);
  ProgressCounters progress;
  const StopFlag stop;
  return verify_output(*tiny.fs, output, report, source ? &*source : nullptr, options, progress, stop);
}

TinyOutput one_layer() { return TinyOutput({{"model.layers.0.q", 16, 64, DType::kBF16, {}}}); }

TEST(Verify, AcceptsAnOutputWithLayersOfEveryKind) {
  const TinyOutput tiny(test::every_kind_of_layer());

  const VerifyResult result = verify(tiny, With::kBoth, {.threads = 2, .make_solver = {}});

  EXPECT_THAT(result.problems, IsEmpty());
  EXPECT_EQ(result.layers.size(), 8U);
  EXPECT_EQ(result.checksums_compared, tiny.tensors.size());
  EXPECT_THAT(verify(tiny, With::kReport).problems, IsEmpty());
  EXPECT_THAT(verify(tiny, With::kSource).problems, IsEmpty());
}

TEST(Verify, AcceptsEveryStoredDtype) {
  for (const DType stored : {DType::kBF16, DType::kF32}) {
    const TinyOutput tiny(test::every_kind_of_layer(), stored);
    EXPECT_THAT(verify(tiny, With::kBoth).problems, IsEmpty()) << name_of(stored);
  }
}

TEST(Verify, TakesTilesApartAsTheyWereWritten) {
  QuantSpec rtn;
  rtn.solver = SolverKind::kRtn;
  QuantSpec columns = rtn;
  columns.axis = 0;
  QuantSpec three = rtn;
  three.width = CodeWidth::k3;
  const TinyOutput tiny({{"model.layers.0.a", 2050, 2112, DType::kBF16, rtn},
                         {"model.layers.0.b", 2112, 2050, DType::kBF16, columns},
                         {"model.layers.0.c", 2051, 2112, DType::kBF16, three}});
  const QuantizedModel output(*tiny.fs, tiny.output_path);
  for (const StoredLayer& layer : output.layers()) ASSERT_GE(layer.tiles.tile_count(), 2) << layer.module;

  const VerifyResult result = verify(tiny, With::kBoth, {.threads = 3, .make_solver = {}});

  EXPECT_THAT(result.problems, IsEmpty());
}

TEST(Verify, NamesTheTensorWhoseByteChanged) {
  for (const std::string key : {"W_q", "scale", "zero"}) {
    TinyOutput tiny = one_layer();
    tiny.tensor("model.layers.0.q." + key).bytes[5] ^= 1;
    tiny.write_output();

    const auto problems = verify(tiny, With::kReport).problems;

    EXPECT_THAT(problems, ElementsAre(AllOf(HasSubstr("model.layers.0.q." + key), HasSubstr("checksum"))));
  }
}

TEST(Verify, NamesAChangedKeptTensorAndTheFirstByte) {
  TinyOutput tiny = one_layer();
  tiny.tensor("model.norm.weight").bytes[7] ^= 1;
  tiny.tensor("model.norm.weight").bytes[9] ^= 1;
  tiny.write_output();

  EXPECT_THAT(verify(tiny, With::kSource).problems,
              ElementsAre(AllOf(HasSubstr("\"model.norm.weight\""), HasSubstr("first at byte 7"))));
}

TEST(Verify, NamesAMissingTensor) {
  TinyOutput tiny = one_layer();
  tiny.erase_tensor("model.norm.weight");
  tiny.write_output();

  EXPECT_THAT(verify(tiny, With::kBoth).problems,
              ElementsAre(AllOf(HasSubstr("model.norm.weight"), HasSubstr("report.json is missing from the output")),
                          AllOf(HasSubstr("model.norm.weight"), HasSubstr("source is missing from the output"))));
}

TEST(Verify, NamesAnExtraTensor) {
  TinyOutput tiny = one_layer();
  tiny.tensors.push_back(test::f32_tensor("model.extra", {1}, {1.0F}));
  tiny.write_output();

  EXPECT_THAT(verify(tiny, With::kBoth).problems,
              ElementsAre(AllOf(HasSubstr("model.extra"), HasSubstr("not in halfquad_report.json")),
                          AllOf(HasSubstr("model.extra"), HasSubstr("not in the source"))));
}

TEST(Verify, RecomputesTheErrorAgainstAnotherSource) {
  TinyOutput tiny = one_layer();
  tiny.source_tensor("model.layers.0.q.weight").bytes[1] ^= 0x10;  // the sign or exponent of one weight
  tiny.write_source();

  EXPECT_THAT(verify(tiny, With::kBoth).problems,
              ElementsAre(AllOf(HasSubstr("model.layers.0.q"), HasSubstr("mean absolute error")),
                          AllOf(HasSubstr("model.layers.0.q"), HasSubstr("relative error"))));
}

TEST(Verify, NamesASourceFileThatIsNotTheReported) {
  TinyOutput tiny = one_layer();
  tiny.report["source"].as_object()["files"].as_array()[0].as_object()["header_xxh3"] = "0123456789abcdef";

  EXPECT_THAT(verify(tiny, With::kBoth).problems,
              ElementsAre(AllOf(HasSubstr("another source"), HasSubstr("0123456789abcdef"))));
}

TEST(Verify, NamesALayerThatTheSourceHasInAnotherShape) {
  TinyOutput tiny = one_layer();
  tiny.source_tensor("model.layers.0.q.weight").shape = {64, 16};
  tiny.write_source();

  EXPECT_THAT(verify(tiny, With::kSource).problems,
              ElementsAre(AllOf(HasSubstr("[16, 64]"), HasSubstr("[64, 16]"), HasSubstr("model.layers.0.q"))));
}

TEST(Verify, NamesALayerThatTheReportDescribesOtherwise) {
  TinyOutput tiny = one_layer();
  tiny.report["layers"].as_array()[0].as_object()["bits"] = "3";

  EXPECT_THAT(verify(tiny, With::kReport).problems,
              ElementsAre(AllOf(HasSubstr("model.layers.0.q"), HasSubstr("not as halfquad_report.json says"))));
}

TEST(Verify, FindsInfinityInAScaleWithoutAnyReport) {
  TinyOutput tiny = one_layer();
  tiny.tensor("model.layers.0.q.scale").bytes.replace(4, 2, std::string("\x00\x7c", 2));
  tiny.write_output();

  EXPECT_THAT(verify(tiny, With::kSource).problems,
              ElementsAre(AllOf(HasSubstr("model.layers.0.q.scale"), HasSubstr("element 2"))));
}

TEST(Verify, RefusesForeignChecksumBlocks) {
  TinyOutput tiny = one_layer();
  tiny.report["tensors"].as_object()["model.layers.0.q.W_q"].as_object()["block_bytes"] = 1;

  EXPECT_THAT(verify(tiny, With::kReport).problems,
              ElementsAre(AllOf(HasSubstr("model.layers.0.q.W_q"), HasSubstr("checksum blocks"))));
}

TEST(Verify, NamesThePlaceWhereAReportIsMalformed) {
  TinyOutput tiny = one_layer();
  tiny.report["layers"].as_array()[0].as_object()["mean_abs_error"] = "small";

  EXPECT_THAT(verify(tiny, With::kReport).problems, ElementsAre(HasSubstr("layers[0].mean_abs_error")));
}

TEST(Verify, CountsWeightsThatWereSetToZero) {
  TinyOutput tiny = one_layer();
  tiny.report["layers"].as_array()[0].as_object()["zeroed"] = 1;

  EXPECT_THAT(verify(tiny, With::kBoth).problems, ElementsAre(HasSubstr("0 NaN or infinite weights")));
}

TEST(Verify, RefusesABudgetBelowOneTile) {
  const TinyOutput tiny = one_layer();

  test::expect_error(ErrorCode::kOutOfMemory, {"the largest tile", "1.0 MiB"}, [&] {
    static_cast<void>(verify(tiny, With::kBoth, {.memory_bytes = 1 << 20, .make_solver = {}}));
  });
}

}  // namespace
}  // namespace halfquad
