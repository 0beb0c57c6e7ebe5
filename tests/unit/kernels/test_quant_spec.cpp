#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <string>

#include <gtest/gtest.h>

#include "kernels/quant_spec.h"

namespace halfquad {
namespace {

constexpr CodeWidth kWidths[] = {CodeWidth::k1, CodeWidth::k1_58, CodeWidth::k2, CodeWidth::k3,
                                 CodeWidth::k4, CodeWidth::k5,    CodeWidth::k6, CodeWidth::k8};

QuantSpec spec_of(CodeWidth width, std::int64_t group_size, int axis = 1) {
  QuantSpec spec;
  spec.width = width;
  spec.group_size = group_size;
  spec.axis = axis;
  return spec;
}

std::string reason(const QuantSpec& spec, std::int64_t rows = 64, std::int64_t cols = 64) {
  return why_not(spec, rows, cols).value_or("");
}

TEST(CodeWidth, NamesAndNumbersAreThoseOfTheLibrary) {
  constexpr int kLargest[] = {1, 2, 3, 7, 15, 31, 63, 255};
  constexpr double kBits[] = {1, 1.58, 2, 3, 4, 5, 6, 8};

  for (std::size_t i = 0; i < std::size(kWidths); ++i) {
    EXPECT_EQ(qmax(kWidths[i]), kLargest[i]);
    EXPECT_EQ(bits_of(kWidths[i]), kBits[i]);
    EXPECT_EQ(code_width_from_name(name_of(kWidths[i])), kWidths[i]);
  }
  EXPECT_EQ(name_of(CodeWidth::k1_58), "1.58");
}

TEST(CodeWidth, RefusesUnknownNames) {
  for (const char* name : {"", "7", "4.0", "16", " 4", "1.5"}) EXPECT_FALSE(code_width_from_name(name)) << name;
}

TEST(SolverKind, NamesAreReadBack) {
  EXPECT_EQ(solver_from_name("rtn"), SolverKind::kRtn);
  EXPECT_EQ(solver_from_name("hqq"), SolverKind::kHqq);
  EXPECT_EQ(solver_from_name("als"), SolverKind::kAls);
  EXPECT_EQ(name_of(SolverKind::kAls), "als");
  EXPECT_EQ(name_of(SolverKind::kHqq), "hqq");
  EXPECT_FALSE(solver_from_name("HQQ"));
}

TEST(Packing, FollowsTheLibrarysTable) {
  EXPECT_EQ(name_of(packing_of(CodeWidth::k8)), "8bit_u8");
  EXPECT_EQ(name_of(packing_of(CodeWidth::k6)), "8bit_u8");
  EXPECT_EQ(name_of(packing_of(CodeWidth::k5)), "8bit_u8");
  EXPECT_EQ(name_of(packing_of(CodeWidth::k4)), "4bit_u8");
  EXPECT_EQ(name_of(packing_of(CodeWidth::k3)), "3bit_32");
  EXPECT_EQ(name_of(packing_of(CodeWidth::k2)), "2bit_u8");
  EXPECT_EQ(name_of(packing_of(CodeWidth::k1_58)), "2bit_u8");
  EXPECT_EQ(name_of(packing_of(CodeWidth::k1)), "1bit_u8");
  EXPECT_EQ(packed_rows(Packing::k3Bit32, 21), 3);
  EXPECT_EQ(packed_rows(Packing::k4BitU8, 20), 10);
  EXPECT_EQ(packed_bytes_of(Packing::k3Bit32), 4);
}

TEST(GroupedShape, FollowsAxisAndGroupSize) {
  const GroupedShape rows = grouped_shape(spec_of(CodeWidth::k4, 64), 16, 128);
  const GroupedShape columns = grouped_shape(spec_of(CodeWidth::k4, 8, 0), 16, 128);
  const GroupedShape whole_rows = grouped_shape(spec_of(CodeWidth::k4, 0), 16, 128);
  const GroupedShape whole_columns = grouped_shape(spec_of(CodeWidth::k4, 0, 0), 16, 128);

  EXPECT_EQ((std::array{rows.rows, rows.cols, rows.groups, rows.group_elems}),
            (std::array<std::int64_t, 4>{32, 64, 32, 64}));
  EXPECT_EQ((std::array{columns.rows, columns.cols, columns.groups, columns.group_elems}),
            (std::array<std::int64_t, 4>{8, 256, 256, 8}));
  EXPECT_EQ(whole_rows.group_elems, 128);
  EXPECT_EQ(whole_columns.group_elems, 16);
}

TEST(GroupedShape, IsTheTensorItselfPerTensor) {
  QuantSpec spec = spec_of(CodeWidth::k4, 64);
  spec.channel_wise = false;

  const GroupedShape shape = grouped_shape(spec, 6, 50);

  EXPECT_EQ((std::array{shape.rows, shape.cols, shape.groups, shape.group_elems}),
            (std::array<std::int64_t, 4>{6, 50, 6, 50}));
  EXPECT_FALSE(spec.optimizes());
}

TEST(WhyNot, AcceptsGroupsThatCrossRows) {
  EXPECT_EQ(reason(spec_of(CodeWidth::k8, 64), 16, 100), "");
  EXPECT_EQ(reason(spec_of(CodeWidth::k4, 50), 16, 100), "");
}

TEST(WhyNot, NamesAGroupSizeThatDoesNotDivide) {
  EXPECT_EQ(reason(spec_of(CodeWidth::k4, 64), 41, 100), "group size 64 does not divide 4100 weights");
}

TEST(WhyNot, NamesRowsThatThePackingCannotHold) {
  EXPECT_EQ(reason(spec_of(CodeWidth::k4, 64), 39, 64), "4-bit packing needs an even number of grouped rows, not 39");
  EXPECT_EQ(reason(spec_of(CodeWidth::k2, 64), 38, 64), "2-bit packing needs a multiple of 4 grouped rows, not 38");
  EXPECT_EQ(reason(spec_of(CodeWidth::k1_58, 64), 38, 64),
            "1.58-bit packing needs a multiple of 4 grouped rows, not 38");
  EXPECT_EQ(reason(spec_of(CodeWidth::k1, 64), 36, 64), "1-bit packing needs a multiple of 8 grouped rows, not 36");
  EXPECT_EQ(reason(spec_of(CodeWidth::k3, 64), 39, 64), "");
  EXPECT_EQ(reason(spec_of(CodeWidth::k8, 64), 39, 64), "");
}

TEST(WhyNot, LooksAtTheTensorsOwnRowsPerTensor) {
  QuantSpec spec = spec_of(CodeWidth::k4, 64);
  spec.channel_wise = false;

  EXPECT_EQ(reason(spec, 4, 33), "");
  EXPECT_EQ(reason(spec, 5, 33), "4-bit packing needs an even number of grouped rows, not 5");
}

TEST(WhyNot, NamesEmptyAndOversizedTensors) {
  EXPECT_EQ(reason(spec_of(CodeWidth::k4, 64), 0, 64), "the tensor is empty");
  EXPECT_EQ(reason(spec_of(CodeWidth::k4, 64), std::int64_t{1} << 40U, std::int64_t{1} << 40U),
            "the number of weights does not fit 64 bits");
}

TEST(WhyNot, NamesParametersOutOfRange) {
  const auto with = [](auto change) {
    QuantSpec spec = spec_of(CodeWidth::k4, 64);
    change(spec);
    return reason(spec);
  };

  EXPECT_EQ(with([](QuantSpec& s) { s.axis = 2; }), "axis must be 0 or 1, not 2");
  EXPECT_EQ(with([](QuantSpec& s) { s.group_size = -1; }), "group size must not be negative, not -1");
  EXPECT_EQ(with([](QuantSpec& s) { s.iters = 0; }), "iterations must be 1 to 1000, not 0");
  EXPECT_EQ(with([](QuantSpec& s) { s.iters = 1001; }), "iterations must be 1 to 1000, not 1001");
  EXPECT_EQ(with([](QuantSpec& s) { s.lp_norm = 1.5; }), "lp norm must be 0.1 to 1, not 1.5");
  EXPECT_EQ(with([](QuantSpec& s) { s.beta = 0; }), "beta must be 1e-6 to 1e6, not 0");
  EXPECT_EQ(with([](QuantSpec& s) { s.kappa = std::numeric_limits<double>::quiet_NaN(); }),
            "kappa must be 1 to 2, not nan");
  EXPECT_EQ(with([](QuantSpec& s) {
              s.solver = SolverKind::kRtn;
              s.iters = 0;
            }),
            "");
}

TEST(WhyNot, NamesWhatTheAlsSolverCannotDo) {
  QuantSpec spec = spec_of(CodeWidth::k4, 64);
  spec.solver = SolverKind::kAls;
  spec.iters = 0;  // hqq's
  EXPECT_EQ(reason(spec), "");
  EXPECT_FALSE(spec.optimizes());

  spec.starts = QuantSpec::kMaxStarts + 1;
  EXPECT_EQ(reason(spec), "starts must be 1 to 41, not 42");
  spec.starts = 1;
  spec.rounds = 0;
  EXPECT_EQ(reason(spec), "rounds must be 1 to 1000, not 0");
  spec.axis = 0;
  EXPECT_EQ(reason(spec), "the als solver needs axis 1");
  spec.channel_wise = false;  // nothing is solved
  EXPECT_EQ(reason(spec), "");
}

TEST(WhyNot, NamesAWholeZeroForTheTensorAtOnce) {
  QuantSpec spec;
  spec.zeros = ZeroKind::kInteger;

  EXPECT_EQ(why_not(spec, 8, 64), std::nullopt);
  EXPECT_FALSE(spec.optimizes());

  spec.channel_wise = false;

  EXPECT_EQ(why_not(spec, 8, 64), "one grid for the tensor has no whole zero");
}

TEST(StepConstants, FollowTheSchedule) {
  const QuantSpec spec;

  const StepConstants first = step_constants(spec, 0);
  const StepConstants last = step_constants(spec, 19);

  EXPECT_EQ(first.inv_beta, 0.1F);
  EXPECT_EQ(first.inert_threshold, static_cast<float>(0.99 * std::pow(10.0, -1 / (2 - 0.7))));
  EXPECT_NEAR(last.inv_beta, 0.1 / std::pow(1.01, 19), 1e-8);
  EXPECT_NEAR(last.inert_threshold, 0.99 * 0.147, 1e-3);
}

TEST(StepConstants, KeepTheThresholdNormalForAnySchedule) {
  QuantSpec spec;
  spec.kappa = 2;

  EXPECT_GT(step_constants(spec, QuantSpec::kMaxIters - 1).inert_threshold, std::numeric_limits<float>::min());
}

}  // namespace
}  // namespace halfquad
