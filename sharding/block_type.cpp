#include "sharding/block_type.h"

#include <algorithm>
#include <array>

#include <boost/algorithm/string/case_conv.hpp>
#include <boost/algorithm/string/predicate.hpp>
#include <fmt/format.h>

#include "kernels/level_grid.h"
#include "runtime/check.h"
#include "sharding/rules.h"

namespace halfquad {
namespace {

using Id = GgmlTypeId;
using enum CodeWidth;
using enum ZeroKind;

// Where a super-block does not fit, llama.cpp takes the blocks of 32 with the next more bits.
constexpr std::array<BlockType, 12> kTypes = {{{Id::kQ4_0, k4, kSymmetric, false, 32, Id::kQ4_0},
                                               {Id::kQ4_1, k4, kFloat, false, 32, Id::kQ4_1},
                                               {Id::kQ5_0, k5, kSymmetric, false, 32, Id::kQ5_0},
                                               {Id::kQ5_1, k5, kFloat, false, 32, Id::kQ5_1},
                                               {Id::kQ8_0, k8, kSymmetric, false, 32, Id::kQ8_0},
                                               {Id::kQ2_K, k2, kFloat, true, 16, Id::kQ4_0},
                                               {Id::kQ3_K, k3, kSymmetric, true, 16, Id::kQ4_0},
                                               {Id::kQ4_K, k4, kFloat, true, 32, Id::kQ5_0},
                                               {Id::kQ5_K, k5, kFloat, true, 32, Id::kQ5_1},
                                               {Id::kQ6_K, k6, kSymmetric, true, 16, Id::kQ8_0},
                                               {Id::kMXFP4, k4, kSymmetric, false, 32, Id::kMXFP4, FloatGrid::kMxfp4},
                                               {Id::kNVFP4, k4, kSymmetric, false, 16, Id::kNVFP4, FloatGrid::kNvfp4}}};

/// The width of blocks of 32 that codes of `width` lie in.
CodeWidth stored_width(CodeWidth width) noexcept { return width == k8 || width == k6 || width == k5 ? width : k4; }

}  // namespace

void BlockType::apply_to(SpecOverride& spec) const {
  spec.width = width;
  spec.zeros = zeros;
  spec.super_blocks = super_blocks;
  spec.grid = grid;
  spec.group_size = group_size;
  spec.axis = 1;
  spec.channel_wise = true;
}

void BlockType::apply_to(QuantSpec& spec) const {
  SpecOverride whole;
  apply_to(whole);
  whole.apply_to(spec);
  if (grid == FloatGrid::kNone) return;
  spec.solver = SolverKind::kAls;
  spec.importance = Importance::kNone;
}

std::span<const BlockType> block_types() noexcept { return kTypes; }

const BlockType& block_type(GgmlTypeId id) {
  const auto* const found = std::ranges::find(kTypes, id, &BlockType::id);
  HALFQUAD_REQUIRE(found != kTypes.end(), kInternal, fmt::format("no layer is stored as {}", ggml_type(id).name));
  return *found;
}

const BlockType* find_block_type(std::string_view name) noexcept {
  const auto* const found =
      std::ranges::find_if(kTypes, [&](const BlockType& type) { return boost::algorithm::iequals(type.name(), name); });
  return found == kTypes.end() ? nullptr : found;
}

const BlockType* block_type_of(const QuantSpec& spec) noexcept {
  const CodeWidth width = spec.super_blocks ? spec.width : stored_width(spec.width);
  const auto* const found = std::ranges::find_if(kTypes, [&](const BlockType& type) {
    return type.super_blocks == spec.super_blocks && type.grid == spec.grid && type.width == width &&
           (type.super_blocks || width == k8 || type.zeros == (spec.zeros == kSymmetric ? kSymmetric : kFloat));
  });
  return found == kTypes.end() ? nullptr : found;
}

bool apply_type(std::string_view name, SpecOverride& spec) {
  if (const BlockType* type = find_block_type(name); type != nullptr) {
    type->apply_to(spec);
    return true;
  }
  const auto grid = float_grid_from_name(boost::algorithm::to_lower_copy(std::string(name)));
  if (!grid || level_count(*grid) == 0) return false;
  spec.width = level_width(*grid);
  spec.zeros = kSymmetric;
  spec.super_blocks = false;
  spec.grid = *grid;
  spec.axis = 1;
  spec.channel_wise = true;
  if (!spec.group_size) spec.group_size = QuantSpec{}.group_size;
  return true;
}

const std::string& type_names() {
  static const std::string kNames = [] {
    std::string names;
    for (const BlockType& type : kTypes) names += fmt::format("{}{}", names.empty() ? "one of " : " ", type.name());
    for (const FloatGrid grid : kLevelGrids) names += fmt::format(" {}", name_of(grid));
    return names;
  }();
  return kNames;
}

}  // namespace halfquad
