#include "sharding/source_experts.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "kernels/mxfp4.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"
#include "sharding/shape_text.h"

namespace halfquad {
namespace {

constexpr std::string_view kExperts = "experts";

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> all) {
  return std::ranges::find(all, text) != all.end();
}

/// Model types whose files hold fused experts as [experts, inputs, outputs].
bool is_known_transposed(std::string_view model_type) {
  return is_one_of(model_type, {"gpt_oss", "llama4", "llama4_text", "qwen3_vl_moe", "qwen3_vl_moe_text"});
}
/// Model types whose files hold them as [experts, outputs, inputs].
bool is_known_upright(std::string_view model_type) {
  return is_one_of(model_type,
                   {"qwen3_moe", "qwen2_moe", "qwen3_next", "deepseek_v2", "deepseek_v3", "glm4_moe", "mixtral"});
}

struct Sizes {
  std::int64_t hidden, width;
};

Sizes sizes_of(const SourceTensor& tensor, const SourceConfig& config) {
  HALFQUAD_REQUIRE(config.hidden_size && config.expert_width, kBadInput,
                   fmt::format("{} holds fused experts, but no config.json gives hidden_size and "
                               "moe_intermediate_size (or intermediate_size), which tell how they lie",
                               quoted(tensor.name)));
  return {*config.hidden_size, *config.expert_width};
}

[[noreturn]] void refuse_shape(const SourceTensor& tensor, const SourceConfig& config) {
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("{} is {}, which does not fit the sizes in config.json: hidden size {}, {} wide experts, {} of "
                  "them",
                  quoted(tensor.name), shape_text(tensor.shape), config.hidden_size.value_or(0),
                  config.expert_width.value_or(0),
                  config.expert_count ? std::to_string(*config.expert_count) : "any number"));
}

void require_expert_count(const SourceTensor& tensor, const SourceConfig& config) {
  if (config.expert_count && tensor.shape[0] != *config.expert_count) refuse_shape(tensor, config);
}

bool is_transposed(const SourceTensor& tensor, const std::vector<std::int64_t>& gate_up, const Sizes& sizes,
                   const SourceConfig& config) {
  const bool upright = gate_up[1] == 2 * sizes.width && gate_up[2] == sizes.hidden;
  const bool transposed = gate_up[1] == sizes.hidden && gate_up[2] == 2 * sizes.width;
  if (!upright && !transposed) refuse_shape(tensor, config);
  if (upright != transposed) return transposed;
  if (is_known_transposed(config.model_type)) return true;
  HALFQUAD_REQUIRE(
      is_known_upright(config.model_type), kBadInput,
      fmt::format("{} may hold its experts transposed or not: hidden size {} is twice their width, and the model type "
                  "{} is not known",
                  quoted(tensor.name), sizes.hidden, quoted(config.model_type)));
  return false;
}

/// How the scales of fused experts lie: for each expert a grid of `lines` x `per_line`, perhaps transposed.
struct FusedGrid {
  std::int64_t block_rows = 1, block_cols = 1;
  std::int64_t lines = 1, per_line = 1;
  bool transposed = false;
  bool shared = false;  ///< One scale for all experts.
};

/// Nothing for scales of another shape. `part_rows`: outputs of one of the matrices that an expert becomes.
std::optional<FusedGrid> fused_grid(const SourceTensor& fused, const SourceTensor& scale, const FusedLayout& layout,
                                    const std::array<std::int64_t, 2>& block, std::int64_t part_rows) {
  using Shape = std::vector<std::int64_t>;
  const std::int64_t experts = layout.experts, rows = layout.rows, cols = layout.cols;
  const Shape& shape = scale.shape;
  if (scale.elements() == 1 || shape == Shape{experts} || shape == Shape{experts, 1, 1}) {
    return FusedGrid{.block_rows = part_rows, .block_cols = cols, .shared = scale.elements() == 1};
  }
  if (shape == Shape{experts, rows} || shape == Shape{experts, rows, 1} || shape == Shape{experts, 1, rows}) {
    return FusedGrid{.block_cols = cols, .lines = rows};
  }
  if (shape != Shape{experts, ceil_div(fused.shape[1], block[0]), ceil_div(fused.shape[2], block[1])}) return {};
  FusedGrid grid{.block_rows = block[0], .block_cols = block[1], .transposed = layout.transposed};
  if (layout.transposed) std::swap(grid.block_rows, grid.block_cols);
  grid.lines = ceil_div(rows, grid.block_rows);
  grid.per_line = ceil_div(cols, grid.block_cols);
  return grid;
}

}  // namespace

std::optional<FusedName> fused_name_of(std::string_view name) {
  constexpr std::string_view kWeight = ".weight", kGateUp = ".gate_up_proj", kDown = ".down_proj";
  if (name.ends_with(kWeight)) name.remove_suffix(kWeight.size());
  const bool is_gate_up = name.ends_with(kGateUp);
  if (!is_gate_up && !name.ends_with(kDown)) return std::nullopt;
  name.remove_suffix(is_gate_up ? kGateUp.size() : kDown.size());
  const bool is_experts = name == kExperts || name.ends_with(".experts");
  return is_experts ? std::optional(FusedName{std::string(name), is_gate_up}) : std::nullopt;
}

FusedLayout fused_layout(const SourceTensor& tensor, bool is_gate_up, const std::vector<std::int64_t>& gate_up_shape,
                         const SourceConfig& config) {
  const Sizes sizes = sizes_of(tensor, config);
  FusedLayout layout;
  layout.transposed = is_transposed(tensor, gate_up_shape, sizes, config);
  layout.interleaved = is_gate_up && config.model_type == "gpt_oss";
  layout.experts = tensor.shape[0];
  layout.rows = is_gate_up ? 2 * sizes.width : sizes.hidden;
  layout.cols = is_gate_up ? sizes.hidden : sizes.width;
  const std::array<std::int64_t, 2> wanted = {layout.transposed ? layout.cols : layout.rows,
                                              layout.transposed ? layout.rows : layout.cols};
  if (tensor.shape[1] != wanted[0] || tensor.shape[2] != wanted[1]) refuse_shape(tensor, config);
  require_expert_count(tensor, config);
  return layout;
}

FusedLayout mxfp4_layout(const SourceTensor& blocks, bool is_gate_up, const SourceConfig& config) {
  FusedLayout layout;
  layout.experts = blocks.shape[0];
  layout.rows = blocks.shape[1];
  layout.cols = blocks.shape[2] * kMxfp4Block;
  layout.interleaved = is_gate_up;
  const auto differs = [](const std::optional<std::int64_t>& size, std::int64_t found) {
    return size && *size != found;
  };
  const std::int64_t hidden = is_gate_up ? layout.cols : layout.rows;
  const std::int64_t width = is_gate_up ? layout.rows / 2 : layout.cols;
  if (differs(config.hidden_size, hidden) || differs(config.expert_width, width) ||
      (is_gate_up && layout.rows % 2 != 0)) {
    refuse_shape(blocks, config);
  }
  require_expert_count(blocks, config);
  return layout;
}

std::vector<LogicalTensor> split_experts(const LogicalTensor& common, const FusedName& name, const FusedLayout& layout,
                                         std::uint64_t row_bytes) {
  constexpr std::array<std::string_view, 2> kGateUp = {"gate_proj", "up_proj"};
  const std::size_t parts = name.is_gate_up ? 2 : 1;
  const auto rows = static_cast<std::uint64_t>(layout.rows), cols = static_cast<std::uint64_t>(layout.cols);
  const std::uint64_t step = layout.interleaved ? 2 : 1;
  const std::uint64_t element = layout.transposed ? row_bytes / cols : 0;
  std::vector<LogicalTensor> out;
  for (std::uint64_t expert = 0; expert < static_cast<std::uint64_t>(layout.experts); ++expert) {
    for (std::size_t part = 0; part < parts; ++part) {
      LogicalTensor& tensor = out.emplace_back(common);
      tensor.header.name =
          fmt::format("{}.{}.{}.weight", name.prefix, expert, name.is_gate_up ? kGateUp[part] : "down_proj");
      tensor.header.shape = {layout.rows / static_cast<std::int64_t>(parts), layout.cols};
      const std::uint64_t first = layout.interleaved ? part : part * (rows / parts);
      const std::uint64_t line = layout.transposed ? element : row_bytes;
      tensor.begin = expert * rows * row_bytes + first * line;
      tensor.row_bytes = line;
      tensor.row_stride = step * line;
      tensor.col_stride = rows * element;
      tensor.scale_begin = (expert * rows + first) * (cols / static_cast<std::uint64_t>(kMxfp4Block));
    }
  }
  return out;
}

void place_scales(const SourceTensor& fused, const SourceTensor& scale, const FusedLayout& layout,
                  const std::array<std::int64_t, 2>& block, std::span<LogicalTensor> experts) {
  const auto refuse = [&](std::string_view why) {
    throw Error(ErrorCode::kBadInput, fmt::format("{} cannot be decoded: {}", quoted(fused.name), why));
  };
  if (experts.empty()) return;
  const auto parts = static_cast<std::int64_t>(experts.size()) / layout.experts;
  const std::int64_t part_rows = layout.rows / parts;
  const std::optional<FusedGrid> grid = fused_grid(fused, scale, layout, block, part_rows);
  if (!grid) {
    refuse(fmt::format("the scales {} fit neither {} nor its outputs nor its blocks of {} x {}",
                       shape_text(scale.shape), shape_text(fused.shape), block[0], block[1]));
  }
  const bool one_line = grid->lines == 1;
  if (parts > 1 && !one_line && part_rows % grid->block_rows != 0) {
    refuse(fmt::format("gate and up, of {} outputs each, share blocks of {}", part_rows, grid->block_rows));
  }
  const auto element = static_cast<std::uint64_t>(bytes_of(scale.dtype));
  for (std::size_t i = 0; i < experts.size(); ++i) {
    const std::int64_t expert = static_cast<std::int64_t>(i) / parts, part = static_cast<std::int64_t>(i) % parts;
    const std::int64_t line = one_line ? 0 : part * (part_rows / grid->block_rows);
    const std::int64_t first = grid->shared ? 0 : expert * grid->lines * grid->per_line;
    const std::int64_t begin = first + (grid->transposed ? line : line * grid->per_line);
    experts[i].scale_begin = static_cast<std::uint64_t>(begin) * element;
    if (grid->transposed) experts[i].scale_col_stride = static_cast<std::uint64_t>(grid->lines) * element;
    experts[i].block_rows = grid->block_rows;
    experts[i].block_cols = grid->block_cols;
  }
}

}  // namespace halfquad
