#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <boost/json/object.hpp>

#include "io/file_system.h"
#include "kernels/quant_spec.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_checkpoint.h"
#include "tests/unit/sharding/model_layer.h"

namespace halfquad::test {

/// A small source and the output in hqq's layout that belongs to it, solved with the reference solver and put together
/// tensor by tensor, without the pipeline. Tests change `tensors`, `report` or `source` and write again.
struct TinyOutput {
  /// Besides the layers the model has an embedding, a norm and a bias of the first layer.
  explicit TinyOutput(const std::vector<ModelLayer>& layers, DType stored = DType::kF16);

  void write_source() const;
  void write_output() const;

  [[nodiscard]] TestTensor& tensor(const std::string& name);
  [[nodiscard]] const TestTensor& tensor(const std::string& name) const;
  [[nodiscard]] TestTensor& source_tensor(const std::string& name);
  void erase_tensor(const std::string& name);
  /// Sets the bytes of a scalar, keeping dtype and shape.
  template <class T>
  void set_value(const std::string& name, T value) {
    tensor(name).bytes.assign(reinterpret_cast<const char*>(&value), sizeof value);
  }

  TempDir temp;
  std::unique_ptr<FileSystem> fs;
  std::filesystem::path source_path, output_path;
  std::vector<TestTensor> source;
  std::vector<TestTensor> tensors;
  boost::json::object report;
};

/// Deterministic weights of about this deviation, in `dtype`.
[[nodiscard]] std::string normal_weights(const std::string& name, DType dtype, std::int64_t count, float deviation);

/// Layers of every kind: all packings, both axes, per tensor, whole rows, 3 bit with padding, every source dtype.
[[nodiscard]] std::vector<ModelLayer> every_kind_of_layer();

}  // namespace halfquad::test
