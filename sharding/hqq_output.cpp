#include "sharding/hqq_output.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "io/safetensors_header.h"
#include "runtime/buffer_pool.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"
#include "sharding/hqq_keys.h"
#include "sharding/shape_text.h"

namespace halfquad {
namespace {

/// Any of these names a quantized layer: no other module has a tensor called so.
constexpr std::array<std::string_view, 5> kMarkerKeys = {"W_q", "packing", "unpack_view_dtype", "encoded_state_dict",
                                                         "stores_quant_config"};
constexpr std::array<std::string_view, 19> kLayerKeys = {"W_q",
                                                         "scale",
                                                         "zero",
                                                         "nbits",
                                                         "group_size",
                                                         "axis",
                                                         "shape",
                                                         "packing",
                                                         "unpack_view_dtype",
                                                         "compute_dtype",
                                                         "view_as_float",
                                                         "quant_scale",
                                                         "quant_zero",
                                                         "channel_wise",
                                                         "optimize",
                                                         "round_zero",
                                                         "offload_meta",
                                                         "encoded_state_dict",
                                                         "stores_quant_config"};

// Longer than any scalar, shape or text that a valid layer stores.
constexpr std::uint64_t kMaxSmallBytes = 64;

struct SplitName {
  std::string_view module, key;
};

SplitName split_name(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return {};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

/// Reads tensors of a few bytes; every file is opened once.
class SmallReader {
 public:
  SmallReader(FileSystem& fs, const Checkpoint& checkpoint)
      : fs_(fs), checkpoint_(checkpoint), scratch_(pool_.acquire(kMaxSmallBytes + ReadFile::kSlack)) {
    files_.resize(checkpoint.files().size());
  }

  std::string read(const SourceTensor& tensor) {
    auto& file = files_[static_cast<std::size_t>(tensor.file)];
    if (!file)
      file = fs_.open_read(checkpoint_.files()[static_cast<std::size_t>(tensor.file)].path, ReadMode::kBuffered);
    const auto bytes = file->read(tensor.offset, tensor.bytes, scratch_.bytes());
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  FileSystem& fs_;
  const Checkpoint& checkpoint_;
  std::vector<std::unique_ptr<ReadFile>> files_;
  BufferPool pool_{BufferPool::kAlignment * 4};
  Buffer scratch_;
};

/// Checks and decodes the keys of one layer.
class LayerReader {
 public:
  LayerReader(const Checkpoint& checkpoint, SmallReader& reader, std::string_view module)
      : checkpoint_(checkpoint), reader_(reader), module_(module) {}

  StoredLayer read() {
    for (const std::string_view key : kLayerKeys) static_cast<void>(tensor(key));
    require_constants();
    QuantSpec spec;
    spec.width = width();
    spec.group_size = integer("group_size", 1, std::int64_t{1} << 40);
    spec.axis = static_cast<int>(integer("axis", 0, 1));
    spec.channel_wise = flag("channel_wise");
    spec.round_zero = flag("round_zero");
    spec.solver = flag("optimize") ? SolverKind::kHqq : SolverKind::kRtn;
    const auto [rows, cols] = shape();
    if (const auto reason = why_not(spec, rows, cols)) {
      fail("shape",
           fmt::format("{} weights do not fit the layer's other keys: {}", shape_text({{rows, cols}}), *reason));
    }
    require_names(packing_of(spec.width));
    const TileGeometry tiles(spec, rows, cols);
    require_codes(tiles);
    const DType stored = require_scales(tiles, spec);
    return {.module = std::string(module_),
            .spec = spec,
            .rows = rows,
            .cols = cols,
            .stored = stored,
            .tiles = tiles,
            .codes = index("W_q"),
            .scale = index("scale"),
            .zero = index("zero")};
  }

 private:
  [[noreturn]] void fail(std::string_view key, const std::string& what) const {
    const SourceTensor* found = checkpoint_.find(name_of_key(key));
    const std::string file = found == nullptr ? checkpoint_.directory().string()
                                              : checkpoint_.files()[static_cast<std::size_t>(found->file)].name;
    throw Error(ErrorCode::kBadInput, fmt::format("{}: quantized layer {}, key {}: {}", halfquad::quoted(file),
                                                  halfquad::quoted(module_), halfquad::quoted(key), what));
  }

  std::string name_of_key(std::string_view key) const { return fmt::format("{}.{}", module_, key); }

  const SourceTensor& tensor(std::string_view key) const {
    const SourceTensor* found = checkpoint_.find(name_of_key(key));
    if (found == nullptr) fail(key, "the tensor is missing; loaders need it");
    return *found;
  }

  std::size_t index(std::string_view key) const {
    return static_cast<std::size_t>(&tensor(key) - checkpoint_.tensors().data());
  }

  std::string bytes(std::string_view key) const {
    const SourceTensor& found = tensor(key);
    if (found.bytes > kMaxSmallBytes) fail(key, fmt::format("{} bytes are too many for such a value", found.bytes));
    return reader_.read(found);
  }

  void require_scalar(std::string_view key) const {
    const SourceTensor& found = tensor(key);
    if (found.shape.size() > 1 || found.elements() != 1) {
      fail(key, fmt::format("a single value is needed, not shape {}", shape_text(found.shape)));
    }
  }

  std::int64_t integer(std::string_view key, std::int64_t least, std::int64_t most) const {
    require_scalar(key);
    const DType dtype = tensor(key).dtype;
    std::int64_t value = 0;
    if (dtype == DType::kI32) {
      std::int32_t narrow = 0;
      std::memcpy(&narrow, bytes(key).data(), sizeof narrow);
      value = narrow;
    } else if (dtype == DType::kI64) {
      std::memcpy(&value, bytes(key).data(), sizeof value);
    } else {
      fail(key, fmt::format("dtype {} where I32 is needed", name_of(dtype)));
    }
    if (value < least || value > most) fail(key, fmt::format("{} is not between {} and {}", value, least, most));
    return value;
  }

  bool flag(std::string_view key) const {
    require_scalar(key);
    const DType dtype = tensor(key).dtype;
    if (dtype != DType::kU8 && dtype != DType::kBool) {
      fail(key, fmt::format("dtype {} where U8 is needed", name_of(dtype)));
    }
    const auto value = static_cast<unsigned char>(bytes(key)[0]);
    if (value > 1) fail(key, fmt::format("{} is neither 0 nor 1", value));
    return value == 1;
  }

  std::string text(std::string_view key) const {
    const SourceTensor& found = tensor(key);
    if (found.dtype != DType::kU8) fail(key, fmt::format("dtype {} where U8 is needed", name_of(found.dtype)));
    if (found.shape.size() != 1) {
      fail(key, fmt::format("text has one dimension, not shape {}", shape_text(found.shape)));
    }
    return bytes(key);
  }

  void require_text(std::string_view key, std::string_view wanted) const {
    const std::string value = text(key);
    if (value != wanted)
      fail(key, fmt::format("{} where {} is needed", halfquad::quoted(value), halfquad::quoted(wanted)));
  }

  CodeWidth width() const {
    if (tensor("nbits").dtype == DType::kF32) {
      require_scalar("nbits");
      float value = 0;
      std::memcpy(&value, bytes("nbits").data(), sizeof value);
      if (value != 1.58F) fail("nbits", fmt::format("{} is no known width; the only fraction is 1.58", value));
      return CodeWidth::k1_58;
    }
    const std::int64_t bits = integer("nbits", 1, 8);
    const auto known = code_width_from_name(std::to_string(bits));
    if (!known) fail("nbits", fmt::format("{} is no known width", bits));
    return *known;
  }

  std::pair<std::int64_t, std::int64_t> shape() const {
    const SourceTensor& found = tensor("shape");
    if (found.dtype != DType::kI64 || found.shape != std::vector<std::int64_t>{2}) {
      fail("shape", fmt::format("I64 of shape [2] is needed, not {} of shape {}", name_of(found.dtype),
                                shape_text(found.shape)));
    }
    std::array<std::int64_t, 2> extents{};
    std::memcpy(extents.data(), bytes("shape").data(), sizeof extents);
    if (extents[0] < 1 || extents[1] < 1 || !element_count(extents)) {
      fail("shape", fmt::format("{} is no possible weight shape", shape_text(extents)));
    }
    return {extents[0], extents[1]};
  }

  void require_constants() const {
    for (const std::string_view key : {"view_as_float", "quant_scale", "quant_zero", "offload_meta"}) {
      if (flag(key)) fail(key, "1 is not supported; only 0 is");
    }
    for (const std::string_view key : {"encoded_state_dict", "stores_quant_config"}) {
      if (!flag(key)) fail(key, "0 contradicts how the layer is stored; 1 is needed");
    }
  }

  void require_names(Packing packing) const {
    require_text("packing", name_of(packing));
    require_text("unpack_view_dtype", packing == Packing::k3Bit32 ? "torch.int32" : "torch.uint8");
    const std::string compute = text("compute_dtype");
    if (compute != "torch.float16" && compute != "torch.bfloat16" && compute != "torch.float32") {
      fail("compute_dtype",
           fmt::format("{} is not torch.float16, torch.bfloat16 or torch.float32", halfquad::quoted(compute)));
    }
  }

  void require_codes(const TileGeometry& tiles) const {
    const SourceTensor& codes = tensor("W_q");
    const DType dtype = hqq_codes_dtype(tiles.packing());
    const std::vector<std::int64_t> wanted = {tiles.packed_rows(), tiles.grouped().cols};
    if (codes.dtype != dtype || codes.shape != wanted) {
      fail("W_q", fmt::format("{} of shape {} is needed, not {} of shape {}", name_of(dtype), shape_text(wanted),
                              name_of(codes.dtype), shape_text(codes.shape)));
    }
  }

  DType require_scales(const TileGeometry& tiles, const QuantSpec& spec) const {
    const DType stored = tensor("scale").dtype;
    for (const std::string_view key : {"scale", "zero"}) {
      const SourceTensor& found = tensor(key);
      if (found.dtype != DType::kF16 && found.dtype != DType::kBF16 && found.dtype != DType::kF32) {
        fail(key, fmt::format("dtype {} where F16, BF16 or F32 is needed", name_of(found.dtype)));
      }
      if (found.dtype != stored) {
        fail(key, fmt::format("dtype {} differs from the scale's {}", name_of(found.dtype), name_of(stored)));
      }
      const std::vector<std::int64_t> wanted = hqq_scale_shape(spec, tiles.scale_count());
      // A single value broadcasts from any shape.
      const bool fits = spec.channel_wise ? found.shape == wanted : found.elements() == 1;
      if (!fits) fail(key, fmt::format("shape {} is needed, not {}", shape_text(wanted), shape_text(found.shape)));
    }
    return stored;
  }

  const Checkpoint& checkpoint_;
  SmallReader& reader_;
  std::string_view module_;
};

bool is_layer_key(std::string_view key) {
  return std::find(kLayerKeys.begin(), kLayerKeys.end(), key) != kLayerKeys.end();
}

std::vector<std::string_view> quantized_modules(const Checkpoint& checkpoint) {
  std::vector<std::string_view> modules;  // in file order, each once
  std::set<std::string_view> seen;
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    const auto [module, key] = split_name(tensor.name);
    const bool marks = std::find(kMarkerKeys.begin(), kMarkerKeys.end(), key) != kMarkerKeys.end();
    if (marks && !module.empty() && seen.insert(module).second) modules.push_back(module);
  }
  return modules;
}

}  // namespace

HqqOutput::HqqOutput(FileSystem& fs, const std::filesystem::path& path) : checkpoint_(fs, path) {
  const std::vector<std::string_view> modules = quantized_modules(checkpoint_);
  HALFQUAD_REQUIRE(!modules.empty(), kBadInput,
                   fmt::format("{} holds no layer quantized in hqq's layout", halfquad::quoted(path.string())));
  SmallReader reader(fs, checkpoint_);
  for (const std::string_view module : modules) {
    const std::string weight = fmt::format("{}.weight", module);
    HALFQUAD_REQUIRE(checkpoint_.find(weight) == nullptr, kBadInput,
                     fmt::format("{}: layer {} is there both quantized and as the plain tensor {}",
                                 halfquad::quoted(path.string()), halfquad::quoted(module), halfquad::quoted(weight)));
    layers_.push_back(LayerReader(checkpoint_, reader, module).read());
  }
  std::set<std::string_view> quantized(modules.begin(), modules.end());
  for (std::size_t i = 0; i < checkpoint_.tensors().size(); ++i) {
    const auto [module, key] = split_name(checkpoint_.tensors()[i].name);
    if (!(is_layer_key(key) && quantized.contains(module))) plain_.push_back(i);
  }
}

}  // namespace halfquad
