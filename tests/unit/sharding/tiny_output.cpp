#include "tests/unit/sharding/tiny_output.h"

#include <cmath>
#include <stdexcept>
#include <utility>

#include <boost/json/array.hpp>
#include <fmt/format.h>

#include "io/posix_file_system.h"
#include "kernels/decode.h"
#include "sharding/gaussian.h"
#include "sharding/output_layout.h"
#include "tests/support/solve_tensor.h"

namespace halfquad::test {
namespace {

TestTensor& find(std::vector<TestTensor>& tensors, const std::string& name) {
  for (TestTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::out_of_range(name);
}

std::string encoded(const std::vector<float>& values, DType dtype) {
  std::string bytes(values.size() * static_cast<std::size_t>(bytes_of(dtype)), '\0');
  encode_from_f32(values.data(), dtype, static_cast<std::int64_t>(values.size()),
                  reinterpret_cast<std::byte*>(bytes.data()));
  return bytes;
}

std::string checksum(const std::string& bytes, const BlockLayout& blocks) {
  BlockDigest digest(blocks);
  if (!bytes.empty()) digest.add(0, std::as_bytes(std::span(bytes)));
  return digest.hex();
}

boost::json::object layer_report(const QuantizedTensor& layer, const SolvedTensor& solved) {
  const ErrorSums& error = solved.final_error;
  return {{"module", layer.module},
          {"shape", boost::json::array{layer.rows, layer.cols}},
          {"bits", name_of(layer.spec.width)},
          {"group_size", layer.tiles.grouped().group_elems},
          {"axis", layer.spec.axis},
          {"mean_abs_error", error.abs.value() / static_cast<double>(layer.rows * layer.cols)},
          {"relative_error", std::sqrt(error.square.value() / error.weight2.value())},
          {"zeroed", 0}};
}

}  // namespace

std::string normal_weights(const std::string& name, DType dtype, std::int64_t count, float deviation) {
  std::string bytes(static_cast<std::size_t>(count * 4), '\0');
  GaussianSource(7, DType::kF32, 0.0F, deviation).fill(name, 0, std::as_writable_bytes(std::span(bytes)));
  std::vector<float> values(static_cast<std::size_t>(count));
  decode_to_f32(reinterpret_cast<const std::byte*>(bytes.data()), DType::kF32, count, values.data());
  if (dtype != DType::kF64) return encoded(values, dtype);
  const std::vector<double> wide(values.begin(), values.end());
  return {reinterpret_cast<const char*>(wide.data()), wide.size() * sizeof(double)};
}

std::vector<ModelLayer> every_kind_of_layer() {
  const auto layer = [](std::string name, std::int64_t rows, std::int64_t cols, DType dtype, QuantSpec spec) {
    return ModelLayer{"model.layers.0." + std::move(name), rows, cols, dtype, spec};
  };
  const auto spec = [](CodeWidth width, std::int64_t group_size, int axis) {
    QuantSpec out;
    out.width = width;
    out.group_size = group_size;
    out.axis = axis;
    return out;
  };
  std::vector<ModelLayer> layers = {
      layer("a", 16, 64, DType::kBF16, spec(CodeWidth::k4, 32, 1)),
      layer("b", 13, 24, DType::kF16, spec(CodeWidth::k3, 8, 1)),  // 39 rows: padded to 40
      layer("c", 16, 64, DType::kF32, spec(CodeWidth::k2, 64, 0)),
      layer("d", 8, 32, DType::kF64, spec(CodeWidth::k8, 0, 1)),
      layer("e", 16, 16, DType::kBF16, spec(CodeWidth::k1, 8, 1)),
      layer("f", 12, 32, DType::kBF16, spec(CodeWidth::k1_58, 32, 1)),
      layer("g", 24, 32, DType::kBF16, spec(CodeWidth::k3, 24, 0)),
      layer("h", 16, 64, DType::kBF16, spec(CodeWidth::k4, 0, 1)),
  };
  layers.back().spec.channel_wise = false;
  layers.front().spec.round_zero = true;
  layers[4].spec.solver = SolverKind::kRtn;
  return layers;
}

TinyOutput::TinyOutput(const std::vector<ModelLayer>& layers, DType stored)
    : fs(make_posix_file_system()), source_path(temp.path() / "source"), output_path(temp.path() / "output") {
  source.push_back({"model.embed_tokens.weight", DType::kBF16, {32, 16}, normal_weights("e", DType::kBF16, 512, 1)});
  source.push_back({"model.norm.weight", DType::kBF16, {16}, normal_weights("n", DType::kBF16, 16, 1)});
  source.push_back({layers.at(0).module + ".bias", DType::kBF16, {4}, normal_weights("b", DType::kBF16, 4, 1)});
  for (const ModelLayer& layer : layers) {
    const std::string name = layer.module + ".weight";
    source.push_back({name,
                      layer.dtype,
                      {layer.rows, layer.cols},
                      normal_weights(name, layer.dtype, layer.rows * layer.cols, 0.1F)});
  }
  std::filesystem::create_directory(source_path);
  std::filesystem::create_directory(output_path);
  write_source();

  const Checkpoint checkpoint(*fs, source_path);
  const OutputLayout layout(checkpoint, decisions_for(checkpoint, layers), stored);
  for (const TensorEntry& entry : layout.entries()) tensors.push_back({entry.name, entry.dtype, entry.shape, ""});
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const OutputTensor& content = layout.contents()[i];
    if (content.kind == OutputTensor::Kind::kConstant) tensors[i].bytes = content.constant;
    if (content.kind == OutputTensor::Kind::kCopy) tensors[i].bytes = source_tensor(tensors[i].name).bytes;
  }
  const auto solver = make_reference_solver();
  boost::json::array reported_layers;
  for (const QuantizedTensor& layer : layout.quantized()) {
    const TestTensor& weight = source_tensor(layer.module + ".weight");
    const SolvedTensor solved = solve_tensor(
        *solver, {reinterpret_cast<const std::byte*>(weight.bytes.data()), weight.dtype, layer.rows, layer.cols},
        layer.spec, {.stored = stored});
    const std::vector<std::byte> packed = pack_tensor(solved, layer.spec);
    tensors[layer.codes].bytes.assign(reinterpret_cast<const char*>(packed.data()), packed.size());
    tensors[layer.scale].bytes = encoded(solved.scale, stored);
    tensors[layer.zero].bytes = encoded(solved.zero, stored);
    reported_layers.push_back(layer_report(layer, solved));
  }
  boost::json::object reported_tensors;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const BlockLayout& blocks = layout.contents()[i].blocks;
    reported_tensors[tensors[i].name] = {{"xxh3", checksum(tensors[i].bytes, blocks)},
                                         {"run_bytes", blocks.run_bytes},
                                         {"block_bytes", blocks.block_bytes}};
  }
  const SourceFile& file = checkpoint.files()[0];
  report = {{"format", "halfquad-report"},
            {"version", 1},
            {"source",
             {{"files", boost::json::array{{{"name", file.name},
                                            {"bytes", file.bytes},
                                            {"header_xxh3", fmt::format("{:016x}", file.header_digest)}}}}}},
            {"layers", std::move(reported_layers)},
            {"tensors", std::move(reported_tensors)}};
  write_output();
}

void TinyOutput::write_source() const {
  put_file(source_path / "config.json", R"({"model_type":"llama","torch_dtype":"float32"})");
  put_safetensors(source_path / "model.safetensors", source);
}

void TinyOutput::write_output() const {
  put_file(output_path / "config.json",
           R"({"model_type":"llama","torch_dtype":"float32","quantization_config":{"quant_method":"hqq"}})");
  put_safetensors(output_path / "model.safetensors", tensors);
}

TestTensor& TinyOutput::tensor(const std::string& name) { return find(tensors, name); }

const TestTensor& TinyOutput::tensor(const std::string& name) const {
  return const_cast<TinyOutput*>(this)->tensor(name);
}

TestTensor& TinyOutput::source_tensor(const std::string& name) { return find(source, name); }

void TinyOutput::erase_tensor(const std::string& name) {
  static_cast<void>(tensor(name));
  std::erase_if(tensors, [&](const TestTensor& tensor) { return tensor.name == name; });
}

}  // namespace halfquad::test
