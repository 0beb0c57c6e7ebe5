#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/hdf5_tree.h"
#include "kernels/quant_spec.h"
#include "runtime/dtype.h"

namespace halfquad {

/// A quantized layer W [rows, cols] of halfquad's HDF5 files: groups along the row.
struct Hdf5Layer {
  std::string module;  ///< Without ".weight".
  int bits = 4;        ///< 1 to 8 in each code; 2 for 1.58.
  std::int64_t group_size = 64;
  std::int64_t rows = 0, cols = 0;
  std::string solver;          ///< "als", "rtn", ...; for people.
  DType stored = DType::kF32;  ///< Of scale and zero: F32, F16 or BF16.
  /// With levels: codes are numbers of entries of a table, which it has in place of zeros.
  FloatGrid grid = FloatGrid::kNone;
  friend bool operator==(const Hdf5Layer&, const Hdf5Layer&) = default;
};

/// A tensor that is as it was. One that is the bias of a quantized layer lies with it in the file.
struct Hdf5Tensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  friend bool operator==(const Hdf5Tensor&, const Hdf5Tensor&) = default;
};

/// A small file that belongs to the model (tokenizer, licence, ...).
struct Hdf5SideFile {
  std::string name;
  std::string content;      ///< Empty when read: it lies in the dataset.
  std::uint64_t bytes = 0;  ///< Its length when read.
  friend bool operator==(const Hdf5SideFile&, const Hdf5SideFile&) = default;
};

/// What halfquad's HDF5 files, version 1, hold.
struct Hdf5Model {
  std::string config;  ///< Text of config.json; empty without one.
  std::vector<Hdf5Layer> layers;
  std::vector<Hdf5Tensor> tensors;
  std::vector<Hdf5SideFile> files;
  friend bool operator==(const Hdf5Model&, const Hdf5Model&) = default;
};

/// Number of the dataset with the codes of layer `layer`; scale and zero, or the table, come next.
[[nodiscard]] constexpr std::size_t hdf5_codes_of(std::size_t layer) noexcept { return 3 * layer; }
/// Number of the dataset of tensor `tensor`.
[[nodiscard]] inline std::size_t hdf5_dataset_of(const Hdf5Model& model, std::size_t tensor) noexcept {
  return 3 * model.layers.size() + tensor;
}
/// Number of the dataset of side file `file`.
[[nodiscard]] inline std::size_t hdf5_file_of(const Hdf5Model& model, std::size_t file) noexcept {
  return 3 * model.layers.size() + model.tensors.size() + file;
}

/// Bytes of a row of codes: a stream of `bits` each, least significant bit first, filled up to a byte.
[[nodiscard]] constexpr std::int64_t hdf5_row_bytes(std::int64_t cols, int bits) noexcept {
  return (cols * bits + 7) / 8;
}

/// The file of `model`: its datasets are numbered as above. Throws kBadInput naming the layer, tensor or file for what
/// version 1 cannot hold: another width or dtype of scales, group sizes that do not divide the row, elements that are
/// no whole bytes, names that HDF5 does not take, a module that would lie inside another's datasets.
[[nodiscard]] Hdf5Tree hdf5_tree(const Hdf5Model& model);

/// hdf5_tree() backwards.
struct Hdf5StoredModel {
  Hdf5Model model;                    ///< Layers, tensors and files by path.
  std::vector<std::size_t> datasets;  ///< Index into the tree's by the numbers above.
};

/// Throws kBadInput naming `name` (the file), the path and the defect: another format or version, datasets that have no
/// place in it, a layer that lacks one or an attribute, or whose shapes, dtypes or name do not fit together.
[[nodiscard]] Hdf5StoredModel hdf5_model(const Hdf5Tree& tree, std::string_view name);

}  // namespace halfquad
