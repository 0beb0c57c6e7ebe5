#include "sharding/source_tensors.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "kernels/fp8.h"
#include "kernels/mxfp4.h"
#include "kernels/packed_int.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"
#include "sharding/shape_text.h"
#include "sharding/source_config.h"
#include "sharding/source_experts.h"

namespace halfquad {
namespace {

using Shape = std::vector<std::int64_t>;
using Block = std::array<std::int64_t, 2>;

constexpr Block kUsualBlock = {128, 128};
constexpr std::string_view kWeight = ".weight", kPacked = ".weight_packed", kBlocks = "_blocks", kScales = "_scales";
constexpr std::array<std::string_view, 4> kScaleSuffixes = {".weight_scale_inv", ".weight_scale", ".weight_zero_point",
                                                            ".weight_shape"};

std::string without(std::string_view name, std::string_view suffix) {
  return std::string(name.substr(0, name.size() - suffix.size()));
}

bool is_fp8(DType dtype) { return dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2; }

[[noreturn]] void refuse(const SourceTensor& tensor, std::string_view why) {
  throw Error(ErrorCode::kBadInput, fmt::format("{} cannot be decoded: {}", quoted(tensor.name), why));
}

class Builder {
 public:
  explicit Builder(const Checkpoint& checkpoint)
      : checkpoint_(checkpoint), has_config_(checkpoint.config().has_value()), serves_(checkpoint.tensors().size()) {
    if (has_config_) config_ = parse_source_config(*checkpoint.config());
  }

  std::vector<LogicalTensor> build() {
    for (std::size_t i = 0; i < checkpoint_.tensors().size(); ++i) add(i);
    std::erase_if(out_, [&](const LogicalTensor& tensor) { return tensor.is_verbatim() && serves_[tensor.data]; });
    require_no_lone_scales();
    require_distinct_names();
    return std::move(out_);
  }

 private:
  [[nodiscard]] bool is_quantized() const { return config_.method != SourceMethod::kNone; }
  [[nodiscard]] bool may_be_mxfp4() const { return config_.method == SourceMethod::kMxfp4 || !has_config_; }

  void add(std::size_t index) {
    const SourceTensor& tensor = checkpoint_.tensors()[index];
    const bool is_fused = tensor.shape.size() == 3 && fused_name_of(tensor.name).has_value();
    if (is_fp8(tensor.dtype) && (is_quantized() || scale_of(tensor) != nullptr)) {
      (is_fused ? add_fused_fp8(index) : add_bytes(index));
    } else if (config_.method == SourceMethod::kCompressedTensors && tensor.dtype == DType::kI8 &&
               scale_of(tensor) != nullptr) {
      add_bytes(index);
    } else if (config_.method == SourceMethod::kCompressedTensors && tensor.name.ends_with(kPacked)) {
      add_packed(index);
    } else if (may_be_mxfp4() && tensor.name.ends_with(kBlocks) && tensor.dtype == DType::kU8) {
      add_mxfp4(index);
    } else if (is_fused && is_float_source(tensor.dtype)) {
      add_fused(index);
    } else {
      out_.push_back(common_of(index, SourceEncoding::kPlain));
    }
  }

  /// The whole of a stored tensor.
  [[nodiscard]] LogicalTensor common_of(std::size_t index, SourceEncoding encoding) const {
    const SourceTensor& stored = checkpoint_.tensors()[index];
    LogicalTensor out;
    out.header = stored;
    out.stored_dtype = stored.dtype;
    out.encoding = encoding;
    out.data = index;
    out.plain_dtype = stored.dtype;
    if (encoding != SourceEncoding::kPlain) {
      out.header.dtype = DType::kF32;
      out.plain_dtype = config_.plain_dtype;
    }
    if (stored.shape.size() == 2 && stored.shape[0] > 0) {
      out.row_bytes = out.row_stride = stored.bytes / static_cast<std::uint64_t>(stored.shape[0]);
    }
    return out;
  }

  /// Another tensor that only serves to decode; nothing when it is not there.
  [[nodiscard]] const SourceTensor* find(const std::string& name) const { return checkpoint_.find(name); }
  std::size_t use(const SourceTensor& tensor) {
    const auto index = static_cast<std::size_t>(&tensor - checkpoint_.tensors().data());
    serves_[index] = true;
    return index;
  }
  void use_scale(LogicalTensor& out, const SourceTensor& scale) {
    out.scale = use(scale);
    out.scale_dtype = scale.dtype;
    if (!is_narrow_source(scale.dtype) || scale.dtype == DType::kF64 || is_fp8(scale.dtype)) {
      refuse(scale, fmt::format("scales are F32, BF16, F16 or F8_E8M0, not {}", name_of(scale.dtype)));
    }
  }

  [[nodiscard]] const SourceTensor* scale_of(const SourceTensor& weight) const {
    if (!weight.name.ends_with(kWeight) && !fused_name_of(weight.name)) return nullptr;
    const SourceTensor* scale = find(weight.name + "_scale_inv");
    return scale != nullptr ? scale : find(weight.name + "_scale");
  }

  /// Codes of a byte, and a scale that has to be there.
  LogicalTensor bytes_of_codes(std::size_t index) {
    const SourceTensor& weight = checkpoint_.tensors()[index];
    const SourceTensor* scale = scale_of(weight);
    if (scale == nullptr)
      refuse(weight, "FP8 without a scale; none of the files holds its \"_scale_inv\" or \"_scale\"");
    LogicalTensor out = common_of(index, SourceEncoding::kBytes);
    use_scale(out, *scale);
    return out;
  }

  void add_bytes(std::size_t index) {
    const SourceTensor& weight = checkpoint_.tensors()[index];
    const std::string module = without(weight.name, kWeight);
    if (weight.shape.size() != 2) {
      refuse(weight, fmt::format("{} of {} dimensions", name_of(weight.dtype), weight.shape.size()));
    }
    LogicalTensor out = bytes_of_codes(index);
    if (find(module + ".weight_zero_point") != nullptr) {
      refuse(weight, fmt::format("{} codes with a \"weight_zero_point\"", name_of(weight.dtype)));
    }
    if (find(module + ".weight_g_idx") != nullptr) refuse(weight, "its groups are not in order (\"weight_g_idx\")");
    const Block block = block_of(weight, *scale_of(weight));
    out.block_rows = block[0];
    out.block_cols = block[1];
    for (const char* input : {".input_scale", ".input_zero_point"}) {
      if (const SourceTensor* found = find(module + input)) use(*found);
    }
    out_.push_back(std::move(out));
  }

  void add_fused_fp8(std::size_t index) {
    const SourceTensor& tensor = checkpoint_.tensors()[index];
    const FusedName name = fused_name_of(tensor.name).value();
    const FusedLayout layout = layout_of_fused(tensor, name);
    if (layout.interleaved) refuse(tensor, "FP8 of interleaved experts");
    const LogicalTensor common = bytes_of_codes(index);
    std::vector<LogicalTensor> experts = split_experts(common, name, layout, static_cast<std::uint64_t>(layout.cols));
    place_scales(tensor, *scale_of(tensor), layout, config_.block.value_or(kUsualBlock), experts);
    append(std::move(experts));
  }

  /// Rows and columns that share one of the scales.
  [[nodiscard]] Block block_of(const SourceTensor& weight, const SourceTensor& scale) const {
    const std::int64_t rows = std::max<std::int64_t>(1, weight.shape[0]);
    const std::int64_t cols = std::max<std::int64_t>(1, weight.shape[1]);
    if (scale.elements() == 1) return {rows, cols};
    std::optional<Block> block = config_.block;
    if (!block && !config_.schemes.empty()) block = config_.scheme_of(without(weight.name, kWeight)).block;
    if (!config_.schemes.empty()) {
      const std::int64_t group = config_.scheme_of(without(weight.name, kWeight)).group_size;
      if (group > 0 && scale.shape == Shape{rows, ceil_div(cols, group)}) return {1, group};
    }
    const Block usual = block.value_or(kUsualBlock);
    if (scale.shape == Shape{ceil_div(rows, usual[0]), ceil_div(cols, usual[1])}) return usual;
    if (scale.shape == Shape{rows} || scale.shape == Shape{rows, 1}) return {1, cols};
    refuse(weight, fmt::format("the scales {} fit neither {} nor its rows nor its blocks of {} x {}",
                               shape_text(scale.shape), shape_text(weight.shape), usual[0], usual[1]));
  }

  void add_packed(std::size_t index) {
    const SourceTensor& codes = checkpoint_.tensors()[index];
    const std::string module = without(codes.name, kPacked);
    const WeightScheme& scheme = config_.scheme_of(module);
    const SourceTensor* scale = find(module + ".weight_scale");
    const SourceTensor* zero = find(module + ".weight_zero_point");
    if (scheme.is_float) refuse(codes, "config.json says that its codes are floating-point");
    if (codes.dtype != DType::kI32 || codes.shape.size() != 2 || codes.bytes == 0) {
      refuse(codes,
             fmt::format("packed codes are an I32 matrix, not {} {}", name_of(codes.dtype), shape_text(codes.shape)));
    }
    if (scale == nullptr) refuse(codes, "none of the files holds its \"weight_scale\"");
    if (find(module + ".weight_g_idx") != nullptr) refuse(codes, "its groups are not in order (\"weight_g_idx\")");
    if ((zero != nullptr) == scheme.symmetric) {
      refuse(codes, scheme.symmetric ? "config.json says symmetric, but it has a \"weight_zero_point\""
                                     : "none of the files holds its \"weight_zero_point\"");
    }
    LogicalTensor out = common_of(index, SourceEncoding::kPackedInt);
    out.header.name = module + std::string(kWeight);
    out.bits = scheme.bits;
    use_scale(out, *scale);
    set_columns(out, scheme, *scale);
    if (zero != nullptr) use_zeros(out, *zero);
    if (const SourceTensor* shape = find(module + ".weight_shape")) use(*shape);
    if (const SourceTensor* input = find(module + ".input_scale")) use(*input);
    out_.push_back(std::move(out));
  }

  void set_columns(LogicalTensor& out, const WeightScheme& scheme, const SourceTensor& scale) const {
    const SourceTensor& codes = checkpoint_.tensors()[out.data];
    const std::int64_t rows = codes.shape[0], words = codes.shape[1];
    const std::int64_t groups = scale.shape.size() == 2 ? scale.shape[1] : 1;
    const bool fits = (scale.shape.size() == 1 || scale.shape.size() == 2) && scale.shape[0] == rows &&
                      (groups == 1 || scheme.group_size != 0);
    const std::optional<std::int64_t> grouped = checked_mul(groups, scheme.group_size);
    const std::int64_t cols = scheme.group_size == 0 ? words * 32 / scheme.bits : grouped.value_or(-1);
    const std::optional<std::int64_t> bits = checked_mul(cols, std::int64_t{scheme.bits});
    if (!fits || cols < 0 || !bits || ceil_div(*bits, std::int64_t{32}) != words) {
      refuse(codes, fmt::format("codes {} and scales {} do not fit {} bits in groups of {}", shape_text(codes.shape),
                                shape_text(scale.shape), scheme.bits,
                                scheme.group_size == 0 ? "whole rows" : std::to_string(scheme.group_size)));
    }
    out.header.shape = {rows, cols};
    out.block_cols = std::max<std::int64_t>(1, scheme.group_size == 0 ? cols : scheme.group_size);
  }

  void use_zeros(LogicalTensor& out, const SourceTensor& zero) {
    const Shape& shape = out.header.shape;
    const Shape wanted = {ceil_div(shape[0] * out.bits, std::int64_t{32}), ceil_div(shape[1], out.block_cols)};
    if (zero.dtype != DType::kI32 || zero.shape != wanted) {
      refuse(zero, fmt::format("the zero points are {} {}, not I32 {}", name_of(zero.dtype), shape_text(zero.shape),
                               shape_text(wanted)));
    }
    out.zero = use(zero);
  }

  void add_mxfp4(std::size_t index) {
    const SourceTensor& blocks = checkpoint_.tensors()[index];
    const std::string base = without(blocks.name, kBlocks);
    const std::optional<FusedName> name = fused_name_of(base);
    if (!name) refuse(blocks, "MXFP4 is only known of experts' gate_up_proj and down_proj");
    const SourceTensor* scale = find(base + std::string(kScales));
    if (scale == nullptr) refuse(blocks, "none of the files holds its \"_scales\"");
    if (blocks.shape.size() != 4 || blocks.shape[3] != kMxfp4BlockBytes || blocks.bytes == 0) {
      refuse(blocks, fmt::format("MXFP4 blocks are [experts, rows, blocks, 16], not {}", shape_text(blocks.shape)));
    }
    if (scale->dtype != DType::kU8 || scale->shape != Shape(blocks.shape.begin(), blocks.shape.end() - 1)) {
      refuse(*scale, fmt::format("the scales {} {} do not fit the blocks {}", name_of(scale->dtype),
                                 shape_text(scale->shape), shape_text(blocks.shape)));
    }
    LogicalTensor common = common_of(index, SourceEncoding::kMxfp4);
    common.scale = use(*scale);
    common.scale_dtype = DType::kU8;
    common.block_cols = kMxfp4Block;
    const FusedLayout layout = mxfp4_layout(blocks, name->is_gate_up, config_);
    append(split_experts(common, *name, layout, static_cast<std::uint64_t>(blocks.shape[2] * kMxfp4BlockBytes)));
  }

  [[nodiscard]] FusedLayout layout_of_fused(const SourceTensor& tensor, const FusedName& name) const {
    const SourceTensor* gate_up = &tensor;
    if (!name.is_gate_up) {
      gate_up = find(name.prefix + ".gate_up_proj");
      if (gate_up == nullptr) gate_up = find(name.prefix + ".gate_up_proj.weight");
      if (gate_up == nullptr || gate_up->shape.size() != 3) refuse(tensor, "these experts have no gate_up_proj");
    }
    return fused_layout(tensor, name.is_gate_up, gate_up->shape, config_);
  }

  void add_fused(std::size_t index) {
    const SourceTensor& tensor = checkpoint_.tensors()[index];
    const FusedName name = fused_name_of(tensor.name).value();
    const FusedLayout layout = layout_of_fused(tensor, name);
    append(split_experts(common_of(index, SourceEncoding::kPlain), name, layout,
                         static_cast<std::uint64_t>(layout.cols * bytes_of(tensor.dtype))));
  }

  void append(std::vector<LogicalTensor> tensors) {
    std::move(tensors.begin(), tensors.end(), std::back_inserter(out_));
  }

  /// What a quantized checkpoint holds beside codes has to belong to some.
  void require_no_lone_scales() const {
    if (!is_quantized()) return;
    for (const LogicalTensor& tensor : out_) {
      const std::string& name = tensor.header.name;
      const bool lone = std::ranges::any_of(kScaleSuffixes, [&](std::string_view end) { return name.ends_with(end); });
      if (lone || (config_.method == SourceMethod::kMxfp4 && name.ends_with(kScales))) {
        refuse(tensor.header, "there are no codes that it belongs to");
      }
    }
  }

  void require_distinct_names() const {
    std::set<std::string_view> names;
    for (const LogicalTensor& tensor : out_) {
      if (!names.insert(tensor.header.name).second) {
        throw Error(ErrorCode::kBadInput, fmt::format("the checkpoint holds {} twice: alone, and packed or fused",
                                                      quoted(tensor.header.name)));
      }
    }
  }

  const Checkpoint& checkpoint_;
  bool has_config_;
  SourceConfig config_;
  std::vector<bool> serves_;  ///< By stored tensor: whether another one is decoded with it.
  std::vector<LogicalTensor> out_;
};

}  // namespace

bool LogicalTensor::is_verbatim() const noexcept {
  if (encoding != SourceEncoding::kPlain || col_stride != 0) return false;
  if (header.shape.size() != 2 || header.shape[0] == 0) return true;
  return row_stride == row_bytes && row_bytes * static_cast<std::uint64_t>(header.shape[0]) == header.bytes;
}

std::vector<LogicalTensor> logical_tensors(const Checkpoint& checkpoint) { return Builder(checkpoint).build(); }

}  // namespace halfquad
