#include "tests/support/test_checkpoint.h"

#include <cstddef>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tests/support/temp_dir.h"

namespace halfquad::test {

TestTensor f32_tensor(std::string name, std::vector<std::int64_t> shape, const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return {std::move(name), DType::kF32, std::move(shape), std::move(bytes)};
}

TestTensor random_tensor(std::string name, DType dtype, std::vector<std::int64_t> shape) {
  const std::int64_t count = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  std::seed_seq seed(name.begin(), name.end());
  std::mt19937 random(seed);
  std::string bytes(static_cast<std::size_t>(count * bytes_of(dtype)), '\0');
  for (char& byte : bytes) byte = static_cast<char>(random() & 0xFFU);
  return {std::move(name), dtype, std::move(shape), std::move(bytes)};
}

std::string safetensors_raw(std::string_view json, std::string_view data) {
  std::string out;
  for (std::size_t i = 0; i < sizeof(std::uint64_t); ++i) out += static_cast<char>(json.size() >> (8 * i) & 0xFFU);
  out += json;
  out += data;
  return out;
}

std::string safetensors_bytes(const std::vector<TestTensor>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  std::string json = "{";
  std::string data;
  std::string comma;
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      json += fmt::format("{}\"{}\":\"{}\"", std::exchange(comma, ","), key, value);
    }
    json += "}";
  }
  for (const TestTensor& tensor : tensors) {
    json += fmt::format(R"({}"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", std::exchange(comma, ","),
                        tensor.name, name_of(tensor.dtype), fmt::join(tensor.shape, ","), data.size(),
                        data.size() + tensor.bytes.size());
    data += tensor.bytes;
  }
  json += "}";
  while (json.size() % 8 != 0) json += ' ';
  return safetensors_raw(json, data);
}

void put_safetensors(const std::filesystem::path& path, const std::vector<TestTensor>& tensors,
                     const std::map<std::string, std::string>& metadata) {
  put_file(path, safetensors_bytes(tensors, metadata));
}

std::string index_text(const std::map<std::string, std::string>& weight_map) {
  std::string text = "{\"metadata\":{\"total_size\":0},\"weight_map\":{";
  std::string comma;
  for (const auto& [tensor, file] : weight_map) {
    text += fmt::format("{}\"{}\":\"{}\"", std::exchange(comma, ","), tensor, file);
  }
  return text + "}}";
}

}  // namespace halfquad::test
