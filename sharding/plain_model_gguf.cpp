#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/formats/gguf_copy.h"
#include "sharding/formats/gguf_model.h"
#include "sharding/formats/gguf_order.h"
#include "sharding/joined_tensor.h"
#include "sharding/plain_model.h"

namespace halfquad {
namespace {

/// Puts the tensors of a checkpoint together from those of the GGUF file that was made from it.
class GgufPlainModel {
 public:
  GgufPlainModel(const QuantizedModel& output, const Checkpoint& source)
      : output_(output), source_(source), gguf_(model_of(source)) {
    for (std::size_t i = 0; i < output.layers().size(); ++i) layers_[output.layers()[i].codes] = i;
    check_names();
    places_.resize(source.tensors().size());
    for (const GgufModelTensor& tensor : gguf_.tensors) {
      for (std::size_t part = 0; part < tensor.sources.size(); ++part) {
        places_[tensor.sources[part]].push_back({&tensor, stored_of(tensor), static_cast<std::int64_t>(part)});
      }
    }
  }

  PlainModel make() {
    PlainModel model;
    for (std::size_t i = 0; i < places_.size(); ++i) {
      if (!places_[i].empty()) model.tensors.push_back(plain_tensor(source_.tensors()[i], places_[i]));
    }
    std::map<std::string, std::size_t> dropped;
    for (const GgufModel::Dropped& one : gguf_.dropped) ++dropped[one.reason];
    for (const auto& [reason, count] : dropped) {
      model.notes.push_back(fmt::format("{} tensors of the source are not in the GGUF file: {}", count, reason));
    }
    model.config = source_.config();
    return model;
  }

 private:
  /// Where in the file a tensor of the source is, or a part of it.
  struct Place {
    const GgufModelTensor* tensor = nullptr;
    std::size_t stored = 0;  ///< Index into the output's tensors.
    std::int64_t part = 0;   ///< Of equal ones, all experts' for example.
  };

  static GgufModel model_of(const Checkpoint& source) {
    HALFQUAD_REQUIRE(source.gguf() != nullptr || source.config(), kBadInput,
                     fmt::format("{} has no config.json, without which the names in a GGUF file cannot be told",
                                 quoted(source.directory().string())));
    return gguf_model_of(source);
  }

  void check_names() const {
    std::set<std::string_view> known;
    for (const GgufModelTensor& tensor : gguf_.tensors) known.insert(tensor.name);
    for (const StoredLayer& layer : output_.layers()) {
      for (const std::size_t part : layer.tensors) known.insert(output_.checkpoint().tensors()[part].name);
    }
    for (const SourceTensor& stored : output_.checkpoint().tensors()) {
      HALFQUAD_REQUIRE(known.contains(stored.name), kBadInput,
                       fmt::format("tensor {} of the GGUF file is none that {} has anything for: it was made from "
                                   "another checkpoint",
                                   quoted(stored.name), quoted(source_.directory().string())));
    }
  }

  [[nodiscard]] std::size_t stored_of(const GgufModelTensor& tensor) const {
    const SourceTensor* stored = output_.checkpoint().find(tensor.name);
    HALFQUAD_REQUIRE(stored != nullptr, kBadInput,
                     fmt::format("the GGUF file has no tensor {}, which {} becomes", quoted(tensor.name),
                                 quoted(source_.tensors()[tensor.sources.front()].name)));
    const auto index = static_cast<std::size_t>(stored - output_.checkpoint().tensors().data());
    const std::int64_t wanted =
        std::accumulate(tensor.dims.begin(), tensor.dims.end(), std::int64_t{1}, std::multiplies<>());
    const auto layer = layers_.find(index);
    const bool is_layer = layer != layers_.end();
    const std::int64_t found =
        is_layer ? output_.layers()[layer->second].rows * output_.layers()[layer->second].cols : stored->elements();
    HALFQUAD_REQUIRE(found == wanted && (!is_layer || output_.layers()[layer->second].cols == tensor.dims[0]),
                     kBadInput,
                     fmt::format("tensor {} of the GGUF file has {} elements, but {} would have {} in rows of {}",
                                 quoted(tensor.name), found, quoted(source_.tensors()[tensor.sources.front()].name),
                                 wanted, tensor.dims[0]));
    return index;
  }

  [[nodiscard]] PlainTensor plain_tensor(const SourceTensor& source, const std::vector<Place>& places) const {
    PlainTensor plain;
    const Place& place = places.front();
    const SourceTensor& stored = output_.checkpoint().tensors()[place.stored];
    plain.tensor.name = source.name;
    plain.tensor.shape = source.shape;
    plain.tensor.file = stored.file;
    plain.tensor.offset = stored.offset;
    const RowOrder order = order_of(place.tensor->rows);
    const auto layer = layers_.find(place.stored);
    if (layer != layers_.end() && has_whole_rows(order)) {
      plain.layer = layer->second;
      plain.view = {place.part * source.shape[0], order, 0};
      plain.tensor.dtype = DType::kF32;
      plain.tensor.decoder = layer_decoder(output_.checkpoint(), output_.layers()[layer->second], plain.view);
    } else {
      plain.tensor.dtype = source.kept_as.value_or(source.dtype);
      set_plain(plain, source, places);
    }
    plain.tensor.bytes = static_cast<std::uint64_t>(source.elements() * bytes_of(plain.tensor.dtype));
    return plain;
  }

  void set_plain(PlainTensor& plain, const SourceTensor& source, const std::vector<Place>& places) const {
    JoinedTensor joined;
    joined.dtype = plain.tensor.dtype;
    joined.rows = source.shape.front();
    joined.cols = source.elements() / joined.rows;
    for (const Place& place : places) {
      JoinedPart& part = joined.parts.emplace_back();
      part.stored = stored_as_floats(place.stored);
      part.start = place.part * source.elements();
      part.order = order_of(place.tensor->rows);
      part.add = place.tensor->add;
    }
    const JoinedPart& only = joined.parts.front();
    const bool as_it_is = joined.parts.size() == 1 && only.order.kind == RowOrder::Kind::kSame && only.add == 0 &&
                          only.stored.dtype == joined.dtype && only.stored.decoder == nullptr;
    if (as_it_is) {
      plain.tensor.offset += static_cast<std::uint64_t>(only.start * bytes_of(joined.dtype));
    } else {
      plain.tensor.decoder = joined_decoder(joined);
    }
    plain.joined = std::move(joined);
  }

  [[nodiscard]] SourceTensor stored_as_floats(std::size_t index) const {
    SourceTensor stored = output_.checkpoint().tensors()[index];
    const auto layer = layers_.find(index);
    if (layer == layers_.end()) return stored;
    stored.dtype = DType::kF32;
    stored.decoder = layer_decoder(output_.checkpoint(), output_.layers()[layer->second], {});
    return stored;
  }

  const QuantizedModel& output_;
  const Checkpoint& source_;
  GgufModel gguf_;
  std::map<std::size_t, std::size_t> layers_;  ///< Tensor of the output to the layer that it is.
  std::vector<std::vector<Place>> places_;     ///< Of each tensor of the source.
};

}  // namespace

PlainModel plain_model(const QuantizedModel& output, const Checkpoint& source) {
  if (!output.format().keeps_names()) return GgufPlainModel(output, source).make();
  PlainModel model = plain_model(output);
  model.config = source.config();
  return model;
}

}  // namespace halfquad
