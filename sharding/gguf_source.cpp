#include "sharding/gguf_source.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "io/gguf_files.h"
#include "io/gguf_types.h"
#include "kernels/ggml_blocks.h"
#include "kernels/mxfp4.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::string_view kWeight = ".weight";

/// A type whose blocks of 32 weights are taken as a source.
struct DecodedType {
  GgmlTypeId id;
  void (*decode)(const std::byte* blocks, std::int64_t count, float* weights) noexcept;
};

void decode_q8_0(const std::byte* blocks, std::int64_t count, float* weights) noexcept {
  dequantize_q8_0(blocks, count * kGgmlBlockElems, weights);
}

static_assert(kMxfp4Block == kGgmlBlockElems);
constexpr std::array kDecodedTypes = {DecodedType{GgmlTypeId::kQ8_0, decode_q8_0},
                                      DecodedType{GgmlTypeId::kMXFP4, decode_ggml_mxfp4}};

/// Reads a tensor of such a type, or some whole rows of one.
class BlockDecoder final : public TensorDecoder {
 public:
  BlockDecoder(const DecodedType& type, int file, std::uint64_t offset)
      : decode_(type.decode),
        stored_(static_cast<std::uint64_t>(ggml_type(type.id).block_bytes)),
        file_(file),
        offset_(offset) {}

  void read(std::span<const std::unique_ptr<ReadFile>> files, const ByteRange& range, std::span<std::byte> scratch,
            std::byte* out) const override {
    HALFQUAD_REQUIRE(scratch.size() >= ReadFile::kSlack + stored_, kOutOfMemory, "no room to decode a block");
    const std::uint64_t most = (scratch.size() - ReadFile::kSlack) / stored_;
    const std::uint64_t end = range.offset + range.bytes;
    for (std::uint64_t at = range.offset; at < end;) {
      const std::uint64_t first = at / kDecoded;
      const std::uint64_t count = std::min(ceil_div(end, kDecoded) - first, most);
      const std::span<const std::byte> blocks =
          files[static_cast<std::size_t>(file_)]->read(offset_ + first * stored_, count * stored_, scratch);
      const std::uint64_t stop = std::min(end, (first + count) * kDecoded);
      decode(blocks, {at - first * kDecoded, stop - at}, out);
      out += stop - at;
      at = stop;
    }
  }

  [[nodiscard]] double stored_per_byte() const noexcept override { return static_cast<double>(stored_) / kDecoded; }

 private:
  static constexpr std::uint64_t kDecoded = kGgmlBlockElems * sizeof(float);  // bytes of a block
  static constexpr std::uint64_t kStrip = 16;  // blocks decoded at a time: they stay in the fastest cache

  /// `range` of what the blocks decode to.
  void decode(std::span<const std::byte> blocks, const ByteRange& range, std::byte* out) const {
    std::array<float, kStrip * kGgmlBlockElems> weights{};
    const std::uint64_t end = range.offset + range.bytes;
    for (std::uint64_t at = range.offset; at < end;) {
      const std::uint64_t first = at / kDecoded;
      const std::uint64_t count = std::min(kStrip, ceil_div(end, kDecoded) - first);
      decode_(blocks.data() + first * stored_, static_cast<std::int64_t>(count), weights.data());
      const std::uint64_t bytes = std::min(end, (first + count) * kDecoded) - at;
      std::memcpy(out, reinterpret_cast<const std::byte*>(weights.data()) + (at - first * kDecoded), bytes);
      out += bytes;
      at += bytes;
    }
  }

  decltype(DecodedType::decode) decode_;
  std::uint64_t stored_;  // bytes of a block in the file
  int file_;
  std::uint64_t offset_;
};

/// A tensor's name taken apart at its dots.
std::vector<std::string_view> parts_of(std::string_view name) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t dot = name.find('.');
    parts.push_back(name.substr(0, dot));
    if (dot == name.npos) return parts;
    name.remove_prefix(dot + 1);
  }
}

/// What follows "blk.<number>." in a name ("enc.blk.0.attn_q.weight"); nothing outside of the blocks.
std::optional<std::string_view> name_in_block(std::string_view name) {
  const std::vector<std::string_view> parts = parts_of(name);
  for (std::size_t i = 0; i + 2 < parts.size(); ++i) {
    const bool is_number =
        !parts[i + 1].empty() && std::ranges::all_of(parts[i + 1], [](char c) { return c >= '0' && c <= '9'; });
    if (parts[i] == "blk" && is_number) return name.substr(static_cast<std::size_t>(parts[i + 2].data() - name.data()));
  }
  return std::nullopt;
}

bool contains(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

/// Vectors in all but shape, and the low ranks of recurrent models: small, and much depends on them.
bool is_small_by_name(std::string_view name) {
  constexpr std::string_view kMix = "time_mix_";
  constexpr std::array<std::string_view, 5> kLinear = {"key", "value", "receptance", "gate", "output"};
  if (contains(name, "altup") || contains(name, "laurel")) return true;
  if (!name.starts_with(kMix)) return false;
  const std::string_view rest = name.substr(kMix.size(), name.size() - kMix.size() - kWeight.size());
  return std::ranges::find(kLinear, rest) == kLinear.end();
}

KeepReason reason_in_block(std::string_view name, const SourceTensor& tensor) {
  constexpr std::int64_t kLeastDimension = 32;
  if (contains(name, "norm")) return KeepReason::kNorm;
  if (contains(name, "ffn_gate_inp") || contains(name, "router")) return KeepReason::kRouter;
  if (contains(name, "head_head")) return KeepReason::kHead;
  if (contains(name, "embd") || contains(name, "embed") || contains(name, "rel_b")) return KeepReason::kEmbedding;
  if (contains(name, "conv")) return KeepReason::kConvolution;
  const bool is_small =
      std::ranges::any_of(tensor.shape, [](std::int64_t dimension) { return dimension < kLeastDimension; });
  if (tensor.shape.size() != 2 || is_small || is_small_by_name(name)) return KeepReason::kNotAWeight;
  return is_float_source(tensor.dtype) ? KeepReason::kNone : KeepReason::kDtype;
}

KeepReason reason_outside(std::string_view name) {
  if (contains(name, "norm")) return KeepReason::kNorm;
  if (contains(name, "embd") || contains(name, "token_types")) return KeepReason::kEmbedding;
  if (name.starts_with("output") || name.starts_with("cls")) return KeepReason::kHead;
  return KeepReason::kOutsideBlocks;
}

/// Whether it holds the matrices of all experts of a block.
bool is_experts(const GgufTensor& tensor) {
  return tensor.dims.size() == 3 && tensor.dims[2] > 0 && tensor.name.ends_with("exps.weight") &&
         name_in_block(tensor.name).has_value();
}

class TensorsOfModel {
 public:
  explicit TensorsOfModel(const GgufFiles& files) : files_(files), places_(files.places()) {}

  std::vector<SourceTensor> of(const GgufHeader& model) {
    for (std::size_t i = 0; i < model.tensors.size(); ++i) {
      const GgufTensor& tensor = model.tensors[i];
      const std::vector<std::int64_t> shape(tensor.dims.rbegin(), tensor.dims.rend());
      if (is_experts(tensor)) {
        add_experts(tensor, places_[i], {shape.begin() + 1, shape.end()});
      } else {
        add(tensor.name, tensor, places_[i], shape);
      }
    }
    return std::move(tensors_);
  }

 private:
  void add_experts(const GgufTensor& all, GgufFiles::Place place, const std::vector<std::int64_t>& shape) {
    const std::string module = all.name.substr(0, all.name.size() - kWeight.size());
    const std::uint64_t bytes = all.bytes() / static_cast<std::uint64_t>(all.dims[2]);
    for (std::int64_t expert = 0; expert < all.dims[2]; ++expert) {
      add(fmt::format("{}.{}{}", module, expert, kWeight), all, place, shape);
      place.offset += bytes;
    }
  }

  /// `name`, of `shape`: `stored`, or a part of it, from `place` on.
  void add(std::string name, const GgufTensor& stored, const GgufFiles::Place& place,
           const std::vector<std::int64_t>& shape) {
    SourceTensor tensor;
    tensor.name = std::move(name);
    tensor.shape = shape;
    tensor.file = place.file;
    tensor.offset = place.offset;
    const auto decoded = std::ranges::find_if(
        kDecodedTypes, [&](const DecodedType& type) { return ggml_type(type.id).id == stored.type; });
    if (decoded != kDecodedTypes.end()) {
      tensor.decoder = std::make_shared<BlockDecoder>(*decoded, place.file, place.offset);
    } else if (const std::optional<DType> dtype = gguf_plain_dtype(stored.type)) {
      tensor.dtype = *dtype;
    } else {
      refuse(stored, place);
    }
    const std::optional<std::int64_t> bytes = checked_mul(tensor.elements(), bytes_of(tensor.dtype));
    HALFQUAD_REQUIRE(bytes.has_value(), kBadInput, fmt::format("tensor {} is too large", quoted(tensor.name)));
    tensor.bytes = static_cast<std::uint64_t>(*bytes);
    tensors_.push_back(std::move(tensor));
  }

  [[noreturn]] void refuse(const GgufTensor& tensor, const GgufFiles::Place& place) const {
    const GgmlType* type = find_ggml_type(tensor.type);
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {} is {}, quantized already; give a GGUF file of the model with F32, F16, "
                            "BF16, Q8_0 or MXFP4 weights instead",
                            quoted(files_.files[static_cast<std::size_t>(place.file)].path.string()),
                            quoted(tensor.name), type == nullptr ? "of an unknown type" : type->name));
  }

  const GgufFiles& files_;
  std::vector<GgufFiles::Place> places_;
  std::vector<SourceTensor> tensors_;
};

}  // namespace

Checkpoint open_gguf_source(FileSystem& fs, const std::filesystem::path& path) {
  GgufFiles files = open_gguf_files(fs, path);
  auto header = std::make_shared<const GgufHeader>(files.model());
  std::vector<SourceTensor> tensors = TensorsOfModel(files).of(*header);
  const bool is_single_file = files.files.size() == 1;
  return Checkpoint::of_gguf(std::move(files.files), is_single_file, std::move(tensors), std::move(header));
}

std::optional<DType> gguf_plain_dtype(std::uint32_t type) {
  struct Plain {
    GgmlTypeId id;
    DType dtype;
  };
  constexpr std::array kPlain = {Plain{GgmlTypeId::kF32, DType::kF32},   Plain{GgmlTypeId::kF16, DType::kF16},
                                 Plain{GgmlTypeId::kBF16, DType::kBF16}, Plain{GgmlTypeId::kF64, DType::kF64},
                                 Plain{GgmlTypeId::kI8, DType::kI8},     Plain{GgmlTypeId::kI16, DType::kI16},
                                 Plain{GgmlTypeId::kI32, DType::kI32},   Plain{GgmlTypeId::kI64, DType::kI64}};
  const auto found = std::ranges::find(kPlain, type, [](const Plain& plain) { return ggml_type(plain.id).id; });
  return found == kPlain.end() ? std::nullopt : std::optional(found->dtype);
}

KeepReason gguf_keep_reason(const SourceTensor& tensor) {
  const std::string_view name = tensor.name;
  const std::string_view first = name.substr(0, name.find('.'));
  if (first == "v" || first == "a" || first == "mm") return KeepReason::kVision;
  if (!name.ends_with(kWeight)) return KeepReason::kNotAWeight;
  const std::optional<std::string_view> in_block = name_in_block(name);
  return in_block ? reason_in_block(*in_block, tensor) : reason_outside(name);
}

}  // namespace halfquad
