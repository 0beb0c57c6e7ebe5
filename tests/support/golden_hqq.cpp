#include "tests/support/golden_hqq.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>

#include <boost/json.hpp>
#include <gtest/gtest.h>

#include "kernels/decode.h"
#include "tests/support/solve_tensor.h"

namespace halfquad::test {
namespace {

namespace json = boost::json;

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

std::string string_of(const json::value& value) { return std::string(value.as_string()); }

GoldenSteps steps_of(const json::object& from) {
  GoldenSteps out;
  out.steps = from.at("steps").to_number<int>();
  out.stopped_early = from.at("stopped_early").as_bool();
  for (const json::value& mean : from.at("mean_abs_e").as_array()) {
    out.mean_abs_e.push_back(static_cast<float>(mean.to_number<double>()));
  }
  return out;
}

CodeWidth width_of(double bits) {
  for (const char* name : {"1", "1.58", "2", "3", "4", "5", "6", "8"}) {
    const CodeWidth width = code_width_from_name(name).value();
    if (bits_of(width) == bits) return width;
  }
  throw std::runtime_error("a golden case of unknown width");
}

QuantSpec spec_of(const json::object& settings) {
  QuantSpec spec;
  spec.width = width_of(settings.at("nbits").to_number<double>());
  spec.group_size = settings.at("group_size").is_null() ? 0 : settings.at("group_size").to_number<std::int64_t>();
  spec.axis = settings.at("axis").to_number<int>();
  spec.channel_wise = settings.at("channel_wise").as_bool();
  spec.round_zero = settings.at("round_zero").as_bool();
  spec.solver = settings.at("optimize").as_bool() ? SolverKind::kHqq : SolverKind::kRtn;
  return spec;
}

GoldenCase case_of(const json::object& from) {
  GoldenCase out;
  out.name = string_of(from.at("name"));
  out.input = string_of(from.at("input"));
  out.rows = from.at("shape").at(0).to_number<std::int64_t>();
  out.cols = from.at("shape").at(1).to_number<std::int64_t>();
  out.spec = spec_of(from.at("settings").as_object());
  out.library = steps_of(from);
  out.canonical = steps_of(from.at("canonical").as_object());
  const json::value& gap = from.at("stop_gap");
  out.stop_gap = gap.is_null() ? std::numeric_limits<double>::infinity() : gap.to_number<double>();
  for (const json::value& active : from.at("shrinkage_active_elements").as_array()) {
    out.inert = out.inert && active.to_number<std::int64_t>() == 0;
  }
  out.grouped_rows = from.at("grouped_shape").at(0).to_number<std::int64_t>();
  out.grouped_cols = from.at("grouped_shape").at(1).to_number<std::int64_t>();
  out.packing = string_of(from.at("packing"));
  return out;
}

bool same_bytes(const std::vector<float>& a, const GoldenTensor& b) {
  const std::size_t size = a.size() * sizeof(float);
  return size == b.bytes.size() && (size == 0 || std::memcmp(a.data(), b.bytes.data(), size) == 0);
}

bool same_bytes(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

std::int64_t ulps_between(float a, float b) {
  const auto ordered = [](float value) -> std::int64_t {
    const auto bits = std::bit_cast<std::int32_t>(value);
    return bits >= 0 ? bits : std::int64_t{std::numeric_limits<std::int32_t>::min()} - bits;
  };
  return std::abs(ordered(a) - ordered(b));
}

float largest_weight(const SourceTensor& tensor) {
  std::vector<float> weights(static_cast<std::size_t>(tensor.rows * tensor.cols));
  decode_to_f32(tensor.data, tensor.dtype, tensor.rows * tensor.cols, weights.data());
  float largest = 0;
  for (const float w : weights) largest = std::max(largest, std::abs(w));
  return largest;
}

void expect_canonical(const SolvedTensor& solved, const GoldenCase& c, const HqqGoldens& goldens) {
  EXPECT_TRUE(same_bytes(solved.zero, goldens.canonical.at(c.name + "/zero")));
  EXPECT_EQ(solved.steps, c.canonical.steps);
  EXPECT_EQ(solved.stopped_early, c.canonical.stopped_early);
  EXPECT_TRUE(same_bytes(solved.mean_abs_e, c.canonical.mean_abs_e));
}

void expect_library_zero(const SolvedTensor& solved, const GoldenCase& c, const GoldenTensor& expected) {
  constexpr double kActiveTolerance = 1e-3;  // code steps
  constexpr std::int64_t kOtherOrderUlps = 3;
  const bool other_order = c.spec.axis == 0 && solved.shape.groups % 32 != 0;
  if (c.inert && !other_order) {
    EXPECT_TRUE(same_bytes(solved.zero, expected));
    return;
  }
  const std::vector<float> theirs = expected.floats();
  ASSERT_EQ(solved.zero.size(), theirs.size());
  for (std::size_t g = 0; g < theirs.size(); ++g) {
    if (c.inert) {
      EXPECT_LE(ulps_between(solved.zero[g], theirs[g]), kOtherOrderUlps) << "group " << g;
    } else {
      EXPECT_LE(std::abs(double{solved.zero[g]} - double{theirs[g]}), kActiveTolerance) << "group " << g;
    }
  }
}

void expect_library_means(const SolvedTensor& solved, const GoldenCase& c, float largest) {
  constexpr double kRelative = 1e-6;
  constexpr double kOfLargest = 1e-7;  // groups far from zero cancel
  const std::size_t both = std::min(solved.mean_abs_e.size(), c.library.mean_abs_e.size());
  for (std::size_t t = 0; t < both; ++t) {
    const double theirs = c.library.mean_abs_e[t];
    const double tolerance = std::max(kRelative * theirs, kOfLargest * double{largest});
    EXPECT_NEAR(solved.mean_abs_e[t], theirs, tolerance) << "step " << t;
  }
}

void expect_case(Solver& solver, const HqqGoldens& goldens, const GoldenCase& c, std::int64_t groups_per_block) {
  constexpr double kDecidedByRounding = 3e-7;
  const GoldenTensor& input = goldens.inputs.at(c.input);
  const SourceTensor tensor{.data = input.bytes.data(), .dtype = input.dtype, .rows = c.rows, .cols = c.cols};
  const auto expected = [&](const char* what) -> const GoldenTensor& { return goldens.expected.at(c.name + what); };

  const SolvedTensor solved = solve_tensor(solver, tensor, c.spec, {.groups_per_block = groups_per_block});
  QuantSpec start = c.spec;
  start.solver = SolverKind::kRtn;
  const SolvedTensor started = solve_tensor(solver, tensor, start, {.groups_per_block = groups_per_block});

  EXPECT_EQ(solved.shape.rows, c.grouped_rows);
  EXPECT_EQ(solved.shape.cols, c.grouped_cols);
  EXPECT_EQ(name_of(packing_of(c.spec.width)), c.packing);
  EXPECT_FALSE(solved.nonfinite);
  expect_canonical(solved, c, goldens);
  EXPECT_TRUE(same_bytes(solved.scale, expected("/scale")));
  EXPECT_TRUE(same_bytes(started.zero, expected("/zero0")));
  EXPECT_EQ(pack_tensor(solved, c.spec), expected("/W_q").bytes);
  expect_library_zero(solved, c, expected("/zero"));
  if (c.stop_gap > kDecidedByRounding) {
    EXPECT_EQ(solved.steps, c.library.steps);
  }
  expect_library_means(solved, c, largest_weight(tensor));
}

}  // namespace

std::vector<float> GoldenTensor::floats() const {
  std::vector<float> out(bytes.size() / sizeof(float));
  std::memcpy(out.data(), bytes.data(), out.size() * sizeof(float));
  return out;
}

GoldenFile read_golden_file(const std::filesystem::path& path) {
  const std::string file = read_text(path);
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
  const std::size_t data = sizeof header_bytes + header_bytes;
  GoldenFile out;
  const json::value header = json::parse(file.substr(sizeof header_bytes, header_bytes));
  for (const auto& [name, value] : header.as_object()) {
    if (name == "__metadata__") continue;
    const json::object& entry = value.as_object();
    GoldenTensor& tensor = out[std::string(name)];
    tensor.dtype = dtype_from_name(string_of(entry.at("dtype"))).value();
    for (const json::value& n : entry.at("shape").as_array()) tensor.shape.push_back(n.to_number<std::int64_t>());
    const auto begin = entry.at("data_offsets").at(0).to_number<std::size_t>();
    const auto end = entry.at("data_offsets").at(1).to_number<std::size_t>();
    tensor.bytes.resize(end - begin);
    if (end > begin) std::memcpy(tensor.bytes.data(), file.data() + data + begin, end - begin);
  }
  return out;
}

HqqGoldens read_hqq_goldens() {
  const std::filesystem::path folder = std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "hqq";
  HqqGoldens out;
  out.inputs = read_golden_file(folder / "inputs.safetensors");
  out.expected = read_golden_file(folder / "expected.safetensors");
  out.canonical = read_golden_file(folder / "canonical.safetensors");
  const json::value cases = json::parse(read_text(folder / "cases.json"));
  for (const json::value& entry : cases.as_array()) {
    out.cases.push_back(case_of(entry.as_object()));
  }
  return out;
}

void expect_hqq_goldens(Solver& solver, const HqqGoldens& goldens, std::int64_t groups_per_block) {
  ASSERT_EQ(goldens.cases.size(), 350U);
  for (const GoldenCase& c : goldens.cases) {
    SCOPED_TRACE(solver.name() + ": " + c.name);
    expect_case(solver, goldens, c, groups_per_block);
  }
}

}  // namespace halfquad::test
