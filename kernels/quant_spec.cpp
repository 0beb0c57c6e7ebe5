#include "kernels/quant_spec.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>

#include "kernels/float_grid.h"
#include "kernels/level_grid.h"
#include "runtime/checked.h"

namespace halfquad {
namespace {

struct WidthRow {
  CodeWidth width;
  int qmax;
  double bits;
  std::string_view name;
  Packing packing;
};
constexpr std::array<WidthRow, 8> kWidths = {{
    {CodeWidth::k1, 1, 1, "1", Packing::k1BitU8},
    {CodeWidth::k1_58, 2, 1.58, "1.58", Packing::k2BitU8},
    {CodeWidth::k2, 3, 2, "2", Packing::k2BitU8},
    {CodeWidth::k3, 7, 3, "3", Packing::k3Bit32},
    {CodeWidth::k4, 15, 4, "4", Packing::k4BitU8},
    {CodeWidth::k5, 31, 5, "5", Packing::k8BitU8},
    {CodeWidth::k6, 63, 6, "6", Packing::k8BitU8},
    {CodeWidth::k8, 255, 8, "8", Packing::k8BitU8},
}};

struct PackingRow {
  Packing packing;
  std::string_view name;
  int slabs;
  int bytes;
};
constexpr std::array<PackingRow, 5> kPackings = {{
    {Packing::k8BitU8, "8bit_u8", 1, 1},
    {Packing::k4BitU8, "4bit_u8", 2, 1},
    {Packing::k3Bit32, "3bit_32", 10, 4},
    {Packing::k2BitU8, "2bit_u8", 4, 1},
    {Packing::k1BitU8, "1bit_u8", 8, 1},
}};

constexpr std::array<std::string_view, 9> kGridNames = {"none",     "nvfp4", "mxfp4",    "fp4-e2m1", "fp3-e2m0",
                                                        "fp3-e1m1", "nf4",   "learned4", "learned3"};
static_assert(kGridNames.size() == static_cast<std::size_t>(FloatGrid::kLearned3) + 1);

constexpr bool rows_are_in_enum_order() {
  for (std::size_t i = 0; i < kWidths.size(); ++i) {
    if (static_cast<std::size_t>(kWidths[i].width) != i) return false;
  }
  for (std::size_t i = 0; i < kPackings.size(); ++i) {
    if (static_cast<std::size_t>(kPackings[i].packing) != i) return false;
  }
  return true;
}
static_assert(rows_are_in_enum_order(), "the tables are indexed by the enums");

const WidthRow& row_of(CodeWidth width) noexcept { return kWidths[static_cast<std::size_t>(width)]; }
const PackingRow& row_of(Packing packing) noexcept { return kPackings[static_cast<std::size_t>(packing)]; }

std::string number(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%g", value);
  return text.data();
}

std::optional<std::string> why_not_als(const QuantSpec& spec) {
  if (spec.axis != 1) return "the als solver needs axis 1";
  if (spec.starts < 1 || spec.starts > QuantSpec::kMaxStarts) {
    return "starts must be 1 to " + std::to_string(QuantSpec::kMaxStarts) + ", not " + std::to_string(spec.starts);
  }
  if (spec.rounds < 1 || spec.rounds > QuantSpec::kMaxIters) {
    return "rounds must be 1 to " + std::to_string(QuantSpec::kMaxIters) + ", not " + std::to_string(spec.rounds);
  }
  if (!(spec.importance_power >= 0 && spec.importance_power <= 2)) {
    return "importance power must be 0 to 2, not " + number(spec.importance_power);
  }
  return std::nullopt;
}

std::optional<std::string> why_not_float_grid(const QuantSpec& spec) {
  const std::string name(name_of(spec.grid));
  if (spec.solver == SolverKind::kHqq) return "hqq cannot solve for " + name + " codes; give als or rtn as the solver";
  if (spec.axis != 1) return name + " needs axis 1";
  if (!spec.channel_wise) return name + " has no scale for a whole tensor alone";
  if (!spec.has_levels() && spec.group_size != group_size_of(spec.grid)) {
    return name + " has groups of " + std::to_string(group_size_of(spec.grid)) + ", not " +
           std::to_string(spec.group_size);
  }
  return std::nullopt;
}

/// The part of why_not that does not look at the tensor.
std::optional<std::string> why_not_at_all(const QuantSpec& spec) {
  if (spec.axis != 0 && spec.axis != 1) return "axis must be 0 or 1, not " + std::to_string(spec.axis);
  if (spec.group_size < 0) return "group size must not be negative, not " + std::to_string(spec.group_size);
  if (spec.grid != FloatGrid::kNone) {
    if (auto reason = why_not_float_grid(spec)) return reason;
  }
  if (spec.solver == SolverKind::kAls && spec.channel_wise) return why_not_als(spec);
  if (!spec.optimizes()) return std::nullopt;
  if (spec.iters < 1 || spec.iters > QuantSpec::kMaxIters) {
    return "iterations must be 1 to " + std::to_string(QuantSpec::kMaxIters) + ", not " + std::to_string(spec.iters);
  }
  if (!(spec.lp_norm >= 0.1 && spec.lp_norm <= 1)) return "lp norm must be 0.1 to 1, not " + number(spec.lp_norm);
  if (!(spec.beta >= 1e-6 && spec.beta <= 1e6)) return "beta must be 1e-6 to 1e6, not " + number(spec.beta);
  if (!(spec.kappa >= 1 && spec.kappa <= 2)) return "kappa must be 1 to 2, not " + number(spec.kappa);
  return std::nullopt;
}

}  // namespace

int qmax(CodeWidth width) noexcept { return row_of(width).qmax; }
double bits_of(CodeWidth width) noexcept { return row_of(width).bits; }
std::string_view name_of(CodeWidth width) noexcept { return row_of(width).name; }

std::optional<CodeWidth> code_width_from_name(std::string_view name) noexcept {
  const auto* const found = std::find_if(kWidths.begin(), kWidths.end(), [&](const auto& r) { return r.name == name; });
  if (found == kWidths.end()) return std::nullopt;
  return found->width;
}

std::string_view name_of(FloatGrid grid) noexcept { return kGridNames[static_cast<std::size_t>(grid)]; }

std::optional<FloatGrid> float_grid_from_name(std::string_view name) noexcept {
  const auto* const found = std::find(kGridNames.begin() + 1, kGridNames.end(), name);
  if (found == kGridNames.end()) return std::nullopt;
  return static_cast<FloatGrid>(found - kGridNames.begin());
}

int QuantSpec::largest_code() const noexcept {
  if (has_levels()) return level_count(grid) - 1;
  return grid == FloatGrid::kNone ? qmax(width) : kLargestFloatCode;
}

bool QuantSpec::weighted() const noexcept {
  return solver == SolverKind::kAls && importance != Importance::kNone && channel_wise;
}

std::string_view name_of(Importance importance) noexcept {
  if (importance == Importance::kFile) return "file";
  return importance == Importance::kNone ? "none" : "weights";
}

std::optional<Importance> importance_from_name(std::string_view name) noexcept {
  for (const Importance importance : {Importance::kNone, Importance::kWeights, Importance::kFile}) {
    if (name_of(importance) == name) return importance;
  }
  return std::nullopt;
}

std::string_view name_of(SolverKind solver) noexcept {
  if (solver == SolverKind::kAls) return "als";
  return solver == SolverKind::kRtn ? "rtn" : "hqq";
}

std::optional<SolverKind> solver_from_name(std::string_view name) noexcept {
  for (const SolverKind solver : {SolverKind::kRtn, SolverKind::kHqq, SolverKind::kAls}) {
    if (name == name_of(solver)) return solver;
  }
  return std::nullopt;
}

Packing packing_of(CodeWidth width) noexcept { return row_of(width).packing; }
std::string_view name_of(Packing packing) noexcept { return row_of(packing).name; }
int slabs_of(Packing packing) noexcept { return row_of(packing).slabs; }
int packed_bytes_of(Packing packing) noexcept { return row_of(packing).bytes; }

std::optional<std::string> why_not_grouped(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  if (auto reason = why_not_at_all(spec)) return reason;
  if (rows <= 0 || cols <= 0) return "the tensor is empty";
  if (!spec.channel_wise && spec.zeros != ZeroKind::kFloat) return "one grid for the tensor has no whole zero";
  const auto numel = checked_mul(rows, cols);
  if (!numel) return "the number of weights does not fit 64 bits";
  if (spec.channel_wise && spec.group_size != 0 && *numel % spec.group_size != 0) {
    return "group size " + std::to_string(spec.group_size) + " does not divide " + std::to_string(*numel) + " weights";
  }
  return std::nullopt;
}

std::optional<std::string> why_not(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  if (auto reason = why_not_grouped(spec, rows, cols)) return reason;
  if (spec.super_blocks) return "hqq has no super-blocks";
  if (spec.grid != FloatGrid::kNone) return "hqq has no floating-point codes";
  const Packing packing = packing_of(spec.width);
  const std::int64_t grouped_rows = grouped_shape(spec, rows, cols).rows;
  const std::int64_t slabs = slabs_of(packing);
  // The library pads the rows of 3-bit matrices only; elsewhere it wraps or drops codes without a word.
  if (packing == Packing::k3Bit32 || grouped_rows % slabs == 0) return std::nullopt;
  const std::string wanted = slabs == 2 ? "an even number of" : "a multiple of " + std::to_string(slabs);
  return std::string(name_of(spec.width)) + "-bit packing needs " + wanted + " grouped rows, not " +
         std::to_string(grouped_rows);
}

GroupedShape grouped_shape(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  if (!spec.channel_wise) return {.rows = rows, .cols = cols, .groups = rows, .group_elems = cols};
  if (spec.axis == 1) {
    const std::int64_t elems = spec.group_size != 0 ? spec.group_size : cols;
    const std::int64_t groups = rows * cols / elems;
    return {.rows = groups, .cols = elems, .groups = groups, .group_elems = elems};
  }
  const std::int64_t elems = spec.group_size != 0 ? spec.group_size : rows;
  const std::int64_t groups = rows * cols / elems;
  return {.rows = elems, .cols = groups, .groups = groups, .group_elems = elems};
}

std::int64_t packed_rows(Packing packing, std::int64_t grouped_rows) noexcept {
  return ceil_div<std::int64_t>(grouped_rows, slabs_of(packing));
}

StepConstants step_constants(const QuantSpec& spec, int t) {
  double beta = spec.beta;
  for (int i = 0; i < t; ++i) beta *= spec.kappa;
  // Far beyond any sensible schedule; keeps the threshold a normal number, as the power function wants.
  beta = std::min(beta, 1e30);
  return {.inv_beta = static_cast<float>(1 / beta),
          .inert_threshold = static_cast<float>(0.99 * std::pow(beta, -1 / (2 - spec.lp_norm)))};
}

}  // namespace halfquad
