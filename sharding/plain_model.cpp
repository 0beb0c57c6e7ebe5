#include "sharding/plain_model.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace halfquad {
namespace {

bool is_digit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }

/// The digits at the front, without leading zeros.
std::string_view take_number(std::string_view& text) {
  const auto digits = static_cast<std::size_t>(std::find_if_not(text.begin(), text.end(), is_digit) - text.begin());
  std::string_view number = text.substr(0, digits);
  text.remove_prefix(digits);
  while (number.size() > 1 && number.front() == '0') number.remove_prefix(1);
  return number;
}

}  // namespace

bool natural_less(std::string_view a, std::string_view b) noexcept {
  while (!a.empty() && !b.empty()) {
    if (is_digit(a.front()) && is_digit(b.front())) {
      const std::string_view x = take_number(a);
      const std::string_view y = take_number(b);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
      continue;
    }
    if (a.front() != b.front()) return a.front() < b.front();
    a.remove_prefix(1);
    b.remove_prefix(1);
  }
  return a.size() < b.size();
}

boost::json::object config_of_plain(boost::json::object config) {
  config.erase("quantization_config");
  config.erase("quantization");  // MLX
  return config;
}

PlainModel plain_model(const QuantizedModel& output) {
  const Checkpoint& stored = output.checkpoint();
  PlainModel model;
  for (std::size_t i = 0; i < output.layers().size(); ++i) {
    const StoredLayer& layer = output.layers()[i];
    const SourceTensor& codes = stored.tensors()[layer.codes];
    PlainTensor& plain = model.tensors.emplace_back();
    plain.layer = i;
    plain.tensor = {.name = layer.module + ".weight",
                    .dtype = DType::kF32,
                    .shape = {layer.rows, layer.cols},
                    .file = codes.file,
                    .offset = codes.offset,
                    .bytes = static_cast<std::uint64_t>(layer.rows * layer.cols) * sizeof(float),
                    .decoder = layer_decoder(stored, layer, plain.view)};
  }
  for (const std::size_t index : output.plain()) model.tensors.push_back({stored.tensors()[index], {}, {}, {}});
  // As the files follow each other, and as the model does inside each.
  std::ranges::sort(model.tensors, [](const PlainTensor& a, const PlainTensor& b) {
    return a.tensor.file != b.tensor.file ? a.tensor.file < b.tensor.file : natural_less(a.tensor.name, b.tensor.name);
  });
  if (stored.config()) model.config = config_of_plain(*stored.config());
  return model;
}

}  // namespace halfquad
