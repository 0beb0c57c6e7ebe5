#include "sharding/formats/hdf5_model.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "kernels/level_grid.h"
#include "runtime/error.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::string_view kFormat = "halfquad";
constexpr std::int32_t kVersion = 1;
constexpr std::string_view kPacking = "rows_lsb";
constexpr std::string_view kLayers = "quantized/";
constexpr std::string_view kTensors = "tensors/";
constexpr std::string_view kFiles = "files/";
constexpr std::array<std::string_view, 4> kParts = {"codes", "scale", "zero", "table"};
constexpr std::size_t kScale = 1, kZero = 2, kTable = 3;
constexpr std::string_view kGrid = "grid";
constexpr std::string_view kBias = "bias";

[[noreturn]] void refuse(std::string_view what, const std::string& why) {
  throw Error(ErrorCode::kBadInput, fmt::format("HDF5 cannot hold {}: {}", quoted(what), why));
}

/// The type whose elements hold the bits of `dtype`; nothing when these are no whole bytes.
std::optional<DType> container_of(DType dtype) {
  if (hdf5_stores(dtype)) return dtype;
  switch (bits_of(dtype)) {
    case 8:
      return DType::kU8;
    case 16:
      return DType::kU16;
    case 64:
      return DType::kU64;
    default:
      return std::nullopt;
  }
}

bool may_be_stored(DType dtype) { return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16; }

std::string path_of_module(std::string_view module) {
  std::string path = std::string(kLayers) + std::string(module);
  std::ranges::replace(path, '.', '/');
  return path;
}

/// Why a layer cannot be one of version 1; empty when it can. The same for both directions.
std::string defect_of(const Hdf5Layer& layer) {
  if (layer.bits < 1 || layer.bits > 8) return fmt::format("codes of {} bits", layer.bits);
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max() / 16;
  if (layer.rows < 1 || layer.cols < 1 || layer.cols > kMost) {
    return fmt::format("the shape [{}, {}]", layer.rows, layer.cols);
  }
  if (layer.group_size < 1 || layer.cols % layer.group_size != 0) {
    return fmt::format("groups of {} in rows of {}", layer.group_size, layer.cols);
  }
  if (!may_be_stored(layer.stored)) return fmt::format("scales of {}", name_of(layer.stored));
  if (layer.grid == FloatGrid::kNone) return {};
  if (level_count(layer.grid) == 0) return fmt::format("the grid {}, which has no table", name_of(layer.grid));
  if (layer.bits != static_cast<int>(bits_of(level_width(layer.grid)))) {
    return fmt::format("codes of {} bits for the grid {}", layer.bits, name_of(layer.grid));
  }
  return {};
}

void add_layer(const Hdf5Layer& layer, Hdf5Tree& tree) {
  if (layer.module.find('/') != std::string::npos) refuse(layer.module, "it has a slash in it");
  if (const std::string defect = defect_of(layer); !defect.empty()) refuse(layer.module, "it has " + defect);
  const std::string path = path_of_module(layer.module);
  if (layer.group_size > std::numeric_limits<std::int32_t>::max()) refuse(layer.module, "its groups are too long");
  Hdf5Group& group = tree.groups.emplace_back();
  group.path = path;
  group.attributes = {{"name", layer.module},
                      {"bits", layer.bits},
                      {"group_size", static_cast<std::int32_t>(layer.group_size)},
                      {"axis", 1},
                      {"shape", std::vector<std::int64_t>{layer.rows, layer.cols}},
                      {"solver", layer.solver},
                      {"packing", std::string(kPacking)}};
  if (layer.grid != FloatGrid::kNone) {
    group.attributes.push_back({std::string(kGrid), std::string(name_of(layer.grid))});
  }
  const std::vector<std::int64_t> groups = {layer.rows, layer.cols / layer.group_size};
  std::vector<Hdf5Attribute> note;
  if (!hdf5_stores(layer.stored)) note.push_back({"dtype", std::string(name_of(layer.stored))});
  const DType stored = *container_of(layer.stored);
  tree.datasets.push_back({.path = path + "/codes",
                           .dtype = DType::kU8,
                           .shape = {layer.rows, hdf5_row_bytes(layer.cols, layer.bits)},
                           .attributes = {},
                           .content = {}});
  tree.datasets.push_back({path + "/scale", stored, groups, note, {}});
  if (layer.grid == FloatGrid::kNone) {
    tree.datasets.push_back({path + "/zero", stored, groups, note, {}});
  } else {
    tree.datasets.push_back({path + "/table", DType::kF32, {level_count(layer.grid)}, {}, {}});
  }
}

/// The module that `tensor` is the bias of; empty when it is none.
std::string_view module_of_bias(std::string_view tensor) {
  if (!tensor.ends_with(kBias) || tensor.size() <= kBias.size() + 1) return {};
  tensor.remove_suffix(kBias.size());
  if (tensor.back() != '.') return {};
  tensor.remove_suffix(1);
  return tensor;
}

void add_tensor(const Hdf5Tensor& tensor, bool with_layer, Hdf5Tree& tree) {
  if (const auto defect = hdf5_name_defect(tensor.name); !defect.empty()) refuse(tensor.name, std::string(defect));
  const auto dtype = container_of(tensor.dtype);
  if (!dtype) refuse(tensor.name, fmt::format("elements of {} are no whole bytes", name_of(tensor.dtype)));
  const std::string path = with_layer ? fmt::format("{}/{}", path_of_module(module_of_bias(tensor.name)), kBias)
                                      : std::string(kTensors) + tensor.name;
  tree.datasets.push_back({.path = path,
                           .dtype = *dtype,
                           .shape = tensor.shape,
                           .attributes = {{"dtype", std::string(name_of(tensor.dtype))}},
                           .content = {}});
}

void add_file(const Hdf5SideFile& file, Hdf5Tree& tree) {
  if (const auto defect = hdf5_path_defect(file.name); !defect.empty()) refuse(file.name, std::string(defect));
  tree.datasets.push_back({.path = std::string(kFiles) + file.name,
                           .dtype = DType::kU8,
                           .shape = {static_cast<std::int64_t>(file.content.size())},
                           .attributes = {},
                           .content = file.content});
}

/// Takes a tree apart.
class ModelReader {
 public:
  ModelReader(const Hdf5Tree& tree, std::string_view name) : tree_(&tree), name_(name) {}
  Hdf5StoredModel read();

 private:
  using Parts = std::array<std::optional<std::size_t>, kParts.size()>;
  using Attributes = std::vector<Hdf5Attribute>;

  [[noreturn]] void refuse(std::string_view path, const std::string& why) const {
    throw Error(ErrorCode::kBadInput, fmt::format("{}: {} {}", quoted(name_), quoted("/" + std::string(path)), why));
  }
  template <class T>
  const T* find(const Attributes& attributes, std::string_view key) const;
  template <class T>
  const T& get(std::string_view path, const Attributes& attributes, std::string_view key, const char* kind) const;
  void read_root();
  void sort_datasets();
  void note_part(std::string_view path, std::size_t dataset);
  void read_layer(const std::string& path, const Parts& parts);
  FloatGrid grid_of(const std::string& path, const Attributes& attributes) const;
  DType stored_type(const Hdf5Dataset& scale) const;
  std::string name_of_tensor(const std::string& path) const;
  void read_tensor(std::size_t dataset);

  const Hdf5Tree* tree_;
  std::string_view name_;
  std::map<std::string, Parts, std::less<>> layers_;  // by path
  std::map<std::string_view, const Hdf5Group*> groups_;
  std::vector<std::size_t> tensors_, files_;
  Hdf5StoredModel out_;
};

template <class T>
const T* ModelReader::find(const Attributes& attributes, std::string_view key) const {
  const auto found = std::ranges::find(attributes, key, &Hdf5Attribute::name);
  return found == attributes.end() ? nullptr : std::get_if<T>(&found->value);
}

template <class T>
const T& ModelReader::get(std::string_view path, const Attributes& attributes, std::string_view key,
                          const char* kind) const {
  const T* value = find<T>(attributes, key);
  if (value == nullptr) refuse(path, fmt::format("has no attribute {} that is {}", quoted(key), kind));
  return *value;
}

void ModelReader::read_root() {
  const auto& format = get<std::string>("", tree_->attributes, "format", "a text");
  if (format != kFormat) refuse("", fmt::format("says that the format is {}, not halfquad", quoted(format)));
  const auto version = get<std::int32_t>("", tree_->attributes, "version", "a whole number");
  if (version != kVersion) refuse("", fmt::format("says that the version is {}; 1 is supported", version));
  if (std::ranges::count(tree_->attributes, "config.json", &Hdf5Attribute::name) != 0) {
    out_.model.config = get<std::string>("", tree_->attributes, "config.json", "a text");
  }
}

void ModelReader::note_part(std::string_view path, std::size_t dataset) {
  const std::size_t slash = path.rfind('/');
  const auto part = std::ranges::find(kParts, path.substr(slash + 1));
  if (slash < kLayers.size() || part == kParts.end()) refuse(path, "is no part of a layer");
  layers_[std::string(path.substr(0, slash))][static_cast<std::size_t>(part - kParts.begin())] = dataset;
}

void ModelReader::sort_datasets() {
  for (const Hdf5Group& group : tree_->groups) {
    if (!group.path.starts_with(kLayers) || group.attributes.empty()) continue;
    layers_.try_emplace(group.path);
    groups_.emplace(group.path, &group);
  }
  for (std::size_t i = 0; i < tree_->datasets.size(); ++i) {
    const std::string_view path = tree_->datasets[i].path;
    if (path.starts_with(kLayers) && path.ends_with("/bias")) {
      tensors_.push_back(i);
    } else if (path.starts_with(kLayers)) {
      note_part(path, i);
    } else if (path.starts_with(kTensors)) {
      tensors_.push_back(i);
    } else if (path.starts_with(kFiles)) {
      files_.push_back(i);
    } else {
      refuse(path, "has no place in the format");
    }
  }
  const auto by_path = [&](std::size_t i) -> const std::string& { return tree_->datasets[i].path; };
  std::ranges::sort(tensors_, {}, by_path);
  std::ranges::sort(files_, {}, by_path);
}

DType ModelReader::stored_type(const Hdf5Dataset& scale) const {
  if (scale.dtype != DType::kU16) return scale.dtype;
  const auto* note = find<std::string>(scale.attributes, "dtype");
  return note != nullptr && *note == name_of(DType::kBF16) ? DType::kBF16 : DType::kU16;
}

FloatGrid ModelReader::grid_of(const std::string& path, const Attributes& attributes) const {
  if (std::ranges::count(attributes, kGrid, &Hdf5Attribute::name) == 0) return FloatGrid::kNone;
  const auto& name = get<std::string>(path, attributes, kGrid, "a text");
  const auto grid = float_grid_from_name(name);
  if (!grid) refuse(path, fmt::format("has the unknown grid {}", quoted(name)));
  return *grid;
}

void ModelReader::read_layer(const std::string& path, const Parts& parts) {
  const auto group = groups_.find(path);
  const Attributes none;
  const Attributes& attributes = group == groups_.end() ? none : group->second->attributes;
  const FloatGrid grid = grid_of(path, attributes);
  const std::size_t third = grid == FloatGrid::kNone ? kZero : kTable;
  const std::array<std::size_t, 3> wanted = {0, kScale, third};
  for (const std::size_t part : wanted) {
    if (!parts[part]) refuse(path, fmt::format("has no dataset {}", quoted(kParts[part])));
  }
  if (const std::size_t other = third == kZero ? kTable : kZero; parts[other]) {
    refuse(tree_->datasets[*parts[other]].path, "does not go with the layer's grid");
  }
  const auto number = [&](const char* key) { return get<std::int32_t>(path, attributes, key, "a whole number"); };
  Hdf5Layer layer{.module = get<std::string>(path, attributes, "name", "a text"),
                  .bits = number("bits"),
                  .group_size = number("group_size"),
                  .solver = get<std::string>(path, attributes, "solver", "a text"),
                  .grid = grid};
  const auto& shape = get<std::vector<std::int64_t>>(path, attributes, "shape", "a list of whole numbers");
  if (shape.size() != 2) refuse(path, fmt::format("has a shape of {} dimensions", shape.size()));
  layer.rows = shape[0];
  layer.cols = shape[1];
  const Hdf5Dataset& scale = tree_->datasets[*parts[kScale]];
  layer.stored = stored_type(scale);
  if (path_of_module(layer.module) != path) refuse(path, fmt::format("is named {}", quoted(layer.module)));
  if (number("axis") != 1) refuse(path, fmt::format("has groups along axis {}; 1 is supported", number("axis")));
  const auto& packing = get<std::string>(path, attributes, "packing", "a text");
  if (packing != kPacking) refuse(path, fmt::format("has the unknown packing {}", quoted(packing)));
  if (const std::string defect = defect_of(layer); !defect.empty()) refuse(path, "has " + defect);
  Hdf5Tree expected;
  add_layer(layer, expected);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const Hdf5Dataset& is = tree_->datasets[*parts[wanted[i]]];
    const Hdf5Dataset& must = expected.datasets[i];
    const bool is_stored = wanted[i] == kScale || wanted[i] == kZero;
    if (is.dtype != must.dtype || is.shape != must.shape || (is_stored && stored_type(is) != layer.stored)) {
      refuse(is.path, fmt::format("is {} [{}] instead of {} [{}]", name_of(is_stored ? stored_type(is) : is.dtype),
                                  fmt::join(is.shape, ", "), name_of(is_stored ? layer.stored : must.dtype),
                                  fmt::join(must.shape, ", ")));
    }
    out_.datasets.push_back(*parts[wanted[i]]);
  }
  out_.model.layers.push_back(std::move(layer));
}

std::string ModelReader::name_of_tensor(const std::string& path) const {
  if (path.starts_with(kLayers)) {
    const std::string above = path.substr(0, path.rfind('/'));
    const auto group = groups_.find(above);
    if (group == groups_.end()) refuse(path, "belongs to no layer");
    return get<std::string>(above, group->second->attributes, "name", "a text") + "." + std::string(kBias);
  }
  const std::string name = path.substr(kTensors.size());
  if (name.find('/') != std::string::npos) refuse(path, "is below another group");
  return name;
}

void ModelReader::read_tensor(std::size_t dataset) {
  const Hdf5Dataset& tensor = tree_->datasets[dataset];
  const std::string name = name_of_tensor(tensor.path);
  const auto& note = get<std::string>(tensor.path, tensor.attributes, "dtype", "a text");
  const auto dtype = dtype_from_name(note);
  if (!dtype || container_of(*dtype) != tensor.dtype) {
    refuse(tensor.path, fmt::format("is {} and says that it is {}", name_of(tensor.dtype), quoted(note)));
  }
  out_.model.tensors.push_back({name, *dtype, tensor.shape});
  out_.datasets.push_back(dataset);
}

Hdf5StoredModel ModelReader::read() {
  read_root();
  sort_datasets();
  for (const auto& [path, parts] : layers_) read_layer(path, parts);
  for (const std::size_t dataset : tensors_) read_tensor(dataset);
  for (const std::size_t dataset : files_) {
    const Hdf5Dataset& file = tree_->datasets[dataset];
    if (file.dtype != DType::kU8 || file.shape.size() != 1) refuse(file.path, "is no list of bytes");
    out_.model.files.push_back(
        {file.path.substr(kFiles.size()), std::string(), static_cast<std::uint64_t>(file.shape.front())});
    out_.datasets.push_back(dataset);
  }
  return std::move(out_);
}

}  // namespace

Hdf5Tree hdf5_tree(const Hdf5Model& model) {
  Hdf5Tree tree;
  tree.attributes = {{"format", std::string(kFormat)}, {"version", kVersion}};
  if (!model.config.empty()) tree.attributes.push_back({"config.json", model.config});
  for (const Hdf5Layer& layer : model.layers) add_layer(layer, tree);
  std::set<std::string_view> modules;
  for (const Hdf5Layer& layer : model.layers) modules.insert(layer.module);
  for (const Hdf5Tensor& tensor : model.tensors) {
    add_tensor(tensor, modules.contains(module_of_bias(tensor.name)), tree);
  }
  for (const Hdf5SideFile& file : model.files) add_file(file, tree);
  return tree;
}

Hdf5StoredModel hdf5_model(const Hdf5Tree& tree, std::string_view name) { return ModelReader(tree, name).read(); }

}  // namespace halfquad
