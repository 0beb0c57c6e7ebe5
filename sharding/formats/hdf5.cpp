#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <boost/json/serialize.hpp>
#include <fmt/format.h>

#include "io/hdf5_image.h"
#include "io/hdf5_reader.h"
#include "io/json.h"
#include "kernels/level_grid.h"
#include "kernels/row_pack.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/formats/hdf5_model.h"
#include "sharding/formats/registry.h"
#include "sharding/formats/row_format.h"
#include "sharding/formats/word_rows.h"
#include "sharding/output_layout.h"
#include "sharding/stored_layer.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::array kWidths = {CodeWidth::k1, CodeWidth::k1_58, CodeWidth::k2, CodeWidth::k3,
                                CodeWidth::k4, CodeWidth::k5,    CodeWidth::k6, CodeWidth::k8};
constexpr std::array<std::int64_t, 0> kAnyGroup = {};
constexpr char kFileName[] = "model.h5";

/// Codes in a bit stream for each row, filled up to a byte; scale and zero beside them. Grids with levels have no
/// zeros.
class BitRows final : public RowPacker {
 public:
  [[nodiscard]] GridForm form(const QuantSpec& /*spec*/) const noexcept override { return {}; }

  [[nodiscard]] RowCuts cuts(const RowShape& shape) const noexcept override {
    const RowCut grid = grid_cut(/*transposed=*/false, shape);
    const std::int64_t row_bytes = hdf5_row_bytes(shape.cols, whole_bits(shape.spec.width));
    return {RowCut::by_rows(shape.rows, static_cast<std::uint64_t>(row_bytes)), grid,
            shape.spec.has_levels() ? RowCut{} : grid};
  }

  void pack(const RowShape& shape, const StoredRows& rows, const RowPlaces<std::byte>& out) const override {
    const int bits = whole_bits(shape.spec.width);
    const auto row_bytes = static_cast<std::size_t>(hdf5_row_bytes(shape.cols, bits));
    for (std::int64_t row = 0; row < rows.rows; ++row) {
      pack_bits(rows.codes + row * shape.cols, shape.cols, bits,
                {out.codes.data + static_cast<std::size_t>(row) * row_bytes, row_bytes});
    }
    store_grid(/*transposed=*/false, shape, rows.scale, rows.rows, out.scale);
    if (!shape.spec.has_levels()) store_grid(/*transposed=*/false, shape, rows.second, rows.rows, out.zero);
  }

  void unpack(const RowShape& shape, const RowPlaces<const std::byte>& in, const LoadedRows& rows) const override {
    const int bits = whole_bits(shape.spec.width);
    const std::int64_t row_bytes = hdf5_row_bytes(shape.cols, bits);
    for (std::int64_t row = 0; row < rows.rows; ++row) {
      unpack_bits(in.codes.data + row * row_bytes, shape.cols, bits, rows.codes + row * shape.cols);
    }
    load_grid(/*transposed=*/false, shape, in.scale, rows.rows, rows.scale);
    if (shape.spec.has_levels()) {
      std::fill_n(rows.second, rows.rows * shape.groups_per_row(), 0.0F);
    } else {
      load_grid(/*transposed=*/false, shape, in.zero, rows.rows, rows.second);
    }
  }
};

/// What the file holds; its datasets are the catalog's entries in their order, then the side files.
Hdf5Model model_of(const FormatInputs& inputs) {
  Hdf5Model model;
  if (inputs.checkpoint.config()) model.config = pretty_json(*inputs.checkpoint.config());
  for (const Decision& decision : inputs.decisions) {
    const SourceTensor& tensor = inputs.checkpoint.tensors()[decision.source];
    if (decision.quantize()) {
      const QuantSpec& spec = decision.spec;
      const std::int64_t group = spec.group_size == 0 ? tensor.shape[1] : spec.group_size;
      model.layers.push_back({std::string(module_of(tensor.name)), whole_bits(spec.width), group, tensor.shape[0],
                              tensor.shape[1], std::string(name_of(spec.solver)), inputs.stored, spec.grid});
    } else {
      model.tensors.push_back({tensor.name, tensor.kept_as.value_or(tensor.dtype), tensor.shape});
    }
  }
  for (const auto& [name, content] : inputs.texts) model.files.push_back({name, content, content.size()});
  return model;
}

std::string file_in(FileSystem& fs, const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  if (extension == ".h5" || extension == ".hdf5") return path.string();
  const std::filesystem::path inside = path / kFileName;
  return fs.kind(path) == FileKind::kDirectory && fs.kind(inside) == FileKind::kFile ? inside.string() : std::string();
}

/// halfquad's own HDF5 layout: see io/FORMAT.md.
class Hdf5Format final : public Format {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "hdf5"; }
  [[nodiscard]] Container container() const noexcept override { return Container::kHdf5; }
  [[nodiscard]] bool keeps_order() const noexcept override { return true; }
  void adapt(QuantSpec& spec, std::int64_t /*cols*/) const override { spec.round_zero = false; }

  [[nodiscard]] std::optional<std::string> why_not(const QuantSpec& spec, std::int64_t rows,
                                                   std::int64_t cols) const override {
    return why_not_rows(name(), {kWidths, kAnyGroup, /*whole_rows=*/true, /*super_blocks=*/false, kLevelGrids}, spec,
                        rows, cols);
  }

  [[nodiscard]] const RowPacker* packer() const noexcept override { return &packer_; }

  [[nodiscard]] LayerTensors tensors_of(std::string_view module, const QuantSpec& spec, std::int64_t rows,
                                        std::int64_t cols, DType stored) const override {
    const RowShape shape{spec, rows, cols, stored};
    const auto named = [&](std::string_view key) { return fmt::format("{}.{}", module, key); };
    LayerTensors tensors;
    tensors.codes = {named("codes"), DType::kU8, {rows, hdf5_row_bytes(cols, whole_bits(spec.width))}};
    tensors.scale = {named("scale"), stored, {rows, shape.groups_per_row()}};
    if (!spec.has_levels()) {
      tensors.zero = {named("zero"), stored, {rows, shape.groups_per_row()}};
      return tensors;
    }
    const TensorShape table{named("table"), DType::kF32, {level_count(spec.grid)}};
    if (const Levels* levels = fixed_levels(spec.grid); levels != nullptr) {
      const auto bytes = std::as_bytes(std::span(*levels).first(static_cast<std::size_t>(level_count(spec.grid))));
      tensors.constants.push_back({table, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}});
    } else {
      tensors.levels = table;
    }
    return tensors;
  }

  [[nodiscard]] std::vector<std::string> wanted_texts(const Checkpoint& checkpoint) const override {
    return {checkpoint.side_files().begin(), checkpoint.side_files().end()};
  }

  void fill(OutputCatalog& catalog, const FormatInputs& inputs) const override {
    for (const bool quantized : {true, false}) {
      for (const Decision& decision : inputs.decisions) {
        if (decision.quantize() == quantized) add_decision(catalog, inputs, decision);
      }
    }
  }

  [[nodiscard]] std::string file_name(std::size_t /*index*/, std::size_t /*count*/) const override { return kFileName; }
  [[nodiscard]] bool too_many_for_one_file(std::span<const TensorEntry> /*entries*/) const override { return false; }

  [[nodiscard]] FileImage image(const FormatInputs& inputs, const OutputLayout& layout,
                                const OutputFile& file) const override {
    HALFQUAD_REQUIRE(layout.files().size() == 1, kUsage, "--max-shard-size: an HDF5 output is one file");
    FileImage image = hdf5_image(hdf5_tree(model_of(inputs)));
    image.offsets.resize(file.end - file.begin);  // beyond: the side files, whose bytes are fixed
    return image;
  }

  [[nodiscard]] json::object config(const Checkpoint& checkpoint,
                                    std::span<const Decision> /*decisions*/) const override {
    return checkpoint.config().value_or(json::object{});
  }

  [[nodiscard]] std::optional<OpenedModel> open(FileSystem& fs, const std::filesystem::path& path) const override {
    const std::string file_path = file_in(fs, path);
    if (file_path.empty()) return std::nullopt;
    const std::unique_ptr<ReadFile> file = fs.open_read(file_path, ReadMode::kBuffered);
    const Hdf5File read = read_hdf5(*file, file_path);
    const Hdf5StoredModel stored = hdf5_model(read.tree, file_path);
    const Hdf5Model& model = stored.model;

    std::vector<SourceTensor> tensors;
    const auto add = [&](std::string name, DType dtype, std::size_t number) {
      const Hdf5Dataset& dataset = read.tree.datasets[stored.datasets[number]];
      SourceTensor& tensor = tensors.emplace_back();
      tensor.name = std::move(name);
      tensor.dtype = dtype;
      tensor.shape = dataset.shape;
      tensor.offset = read.offsets[stored.datasets[number]];
      tensor.bytes = static_cast<std::uint64_t>(tensor.elements() * bytes_of(dtype));
    };
    for (std::size_t i = 0; i < model.layers.size(); ++i) {
      const Hdf5Layer& layer = model.layers[i];
      add(layer.module + ".codes", DType::kU8, hdf5_codes_of(i));
      add(layer.module + ".scale", layer.stored, hdf5_codes_of(i) + 1);
      if (layer.grid == FloatGrid::kNone) {
        add(layer.module + ".zero", layer.stored, hdf5_codes_of(i) + 2);
      } else {
        add(layer.module + ".table", DType::kF32, hdf5_codes_of(i) + 2);
      }
    }
    for (std::size_t i = 0; i < model.tensors.size(); ++i) {
      add(model.tensors[i].name, model.tensors[i].dtype, hdf5_dataset_of(model, i));
    }
    std::optional<json::object> config;
    if (!model.config.empty()) {
      const json::value value = parse_json(model.config, "config.json");
      if (value.is_object()) config = value.as_object();
    }
    OpenedModel opened{
        Checkpoint::of_parts({{std::filesystem::path(file_path).filename().string(), file_path, read.bytes, 0}},
                             path == file_path, std::move(tensors), std::move(config)),
        {}};
    SmallTensorReader reader(fs, opened.checkpoint);
    for (const Hdf5Layer& layer : model.layers) {
      StoredLayer& added = opened.layers.emplace_back(stored_layer(opened.checkpoint, layer));
      if (layer.grid != FloatGrid::kNone) added.levels = read_levels(opened.checkpoint, layer, reader);
    }
    return opened;
  }

  [[nodiscard]] bool made(const Checkpoint& /*checkpoint*/) const override { return false; }
  [[nodiscard]] std::vector<StoredLayer> layers(const Checkpoint& /*checkpoint*/,
                                                SmallTensorReader& /*reader*/) const override {
    return {};
  }

 private:
  void add_decision(OutputCatalog& catalog, const FormatInputs& inputs, const Decision& decision) const {
    const SourceTensor& tensor = inputs.checkpoint.tensors()[decision.source];
    if (decision.quantize()) {
      catalog.add_layer(*this, decision.source, tensor, decision.spec, inputs.stored);
    } else {
      add_kept(catalog, decision.source, tensor);
    }
  }

  [[nodiscard]] StoredLayer stored_layer(const Checkpoint& checkpoint, const Hdf5Layer& layer) const {
    QuantSpec spec;
    const auto width = code_width_from_name(std::to_string(layer.bits));
    if (!width) fail_layer(checkpoint, layer.module, "codes", fmt::format("{} bits are no known width", layer.bits));
    spec.width = *width;
    spec.group_size = layer.group_size;
    if (layer.grid != FloatGrid::kNone) {
      spec.grid = layer.grid;
      spec.zeros = ZeroKind::kSymmetric;
      spec.solver = SolverKind::kAls;
      spec.importance = Importance::kNone;  // for all that can be seen
    }
    return stored_row_layer(*this, checkpoint, layer.module, spec, layer.rows, layer.cols, layer.stored);
  }

  [[nodiscard]] static Levels read_levels(const Checkpoint& checkpoint, const Hdf5Layer& layer,
                                          SmallTensorReader& reader) {
    const LayerTensorFinder finder(checkpoint, layer.module);
    const std::string bytes = reader.read(finder.get("table"));
    Levels levels{};
    std::memcpy(levels.data(), bytes.data(), std::min(bytes.size(), sizeof levels));
    const auto found = std::span(levels).first(static_cast<std::size_t>(level_count(layer.grid)));
    if (!std::ranges::all_of(found, [](float level) { return std::isfinite(level); }) ||
        !std::ranges::is_sorted(found)) {
      finder.fail("table", "its entries are not finite and ascending");
    }
    const Levels* fixed = fixed_levels(layer.grid);
    if (fixed != nullptr && levels != *fixed) {
      finder.fail("table", fmt::format("it is not that of {}", name_of(layer.grid)));
    }
    return levels;
  }

  BitRows packer_;
};

}  // namespace

const Format& hdf5_format() noexcept {
  static const Hdf5Format kFormat;
  return kFormat;
}

}  // namespace halfquad
