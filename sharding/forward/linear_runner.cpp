#include "sharding/forward/linear_runner.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "kernels/decode.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "runtime/text.h"
#include "sharding/forward/elementwise.h"

namespace halfquad {
namespace {

// Eight blocks of the rows that the product keeps in registers: enough to use inputs well that come from far away.
constexpr std::int64_t kItemRows = 48;

constexpr std::uint64_t kFloat = sizeof(float);

/// Elements [first, first + count) of a tensor as fp32. `raw` has room for them as they are stored.
void read_elements(const WeightSource& source, const SourceTensor& tensor, std::span<std::byte> scratch,
                   const ByteRange& elements, std::span<std::byte> raw, float* out) {
  const auto size = static_cast<std::uint64_t>(bytes_of(tensor.dtype));
  const ByteRange range{elements.offset * size, elements.bytes * size};
  const auto count = static_cast<std::int64_t>(elements.bytes);
  try {
    source.files.gather(tensor, {&range, 1}, scratch, raw.data());
  } catch (const Error& error) {
    throw while_reading(tensor, error);
  }
  if (source.zero_nonfinite) {
    zero_nonfinite(raw.data(), tensor.dtype, count);
  } else if (const auto found = find_nonfinite(raw.data(), tensor.dtype, count)) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("tensor {} holds a NaN or an infinity at element {}", quoted(tensor.name),
                            static_cast<std::int64_t>(elements.offset) + *found));
  }
  decode_to_f32(raw.data(), tensor.dtype, count, out);
}

std::vector<float> read_some(const WeightSource& source, const SourceTensor& tensor, const ByteRange& elements,
                             std::span<std::byte> scratch) {
  std::vector<float> values(elements.bytes);
  std::vector<std::byte> raw(elements.bytes * static_cast<std::uint64_t>(bytes_of(tensor.dtype)));
  read_elements(source, tensor, scratch, elements, raw, values.data());
  return values;
}

/// `rows`: in the first of some panels, `stride` elements apart.
void add_bias(std::span<const float> bias, float* rows, std::int64_t stride, std::int64_t panels) {
  for (std::int64_t panel = 0; panel < panels; ++panel) {
    float* value = rows + panel * stride;
    for (const float more : bias) {
      for (std::int64_t lane = 0; lane < kPanelTokens; ++lane) *value++ += more;
    }
  }
}

}  // namespace

/// Some rows of a task's result.
struct LinearRunner::Item {
  const LinearTask* task = nullptr;
  std::int64_t begin = 0, rows = 0;

  [[nodiscard]] std::uint64_t bytes() const {
    return static_cast<std::uint64_t>(rows * kPanelTokens * task->out->panels()) * kFloat;
  }
  [[nodiscard]] std::uint64_t weights() const {
    return static_cast<std::uint64_t>(rows * (task->matrix->cols + (task->gate == nullptr ? 0 : task->gate->cols)));
  }
  [[nodiscard]] std::uint64_t source_bytes() const {
    const auto of = [this](const LinearPart* part) {
      return part == nullptr ? 0 : rows * part->cols * bytes_of(part->weight->dtype);
    };
    return static_cast<std::uint64_t>(of(task->matrix) + of(task->gate));
  }
};

std::vector<float> read_vector(const WeightSource& source, const SourceTensor& tensor, std::span<std::byte> scratch) {
  return read_some(source, tensor, {0, static_cast<std::uint64_t>(tensor.elements())}, scratch);
}

std::vector<float> read_row(const WeightSource& source, const SourceTensor& tensor, std::int64_t row,
                            std::span<std::byte> scratch) {
  const std::int64_t cols = tensor.shape[1];
  return read_some(source, tensor, {static_cast<std::uint64_t>(row * cols), static_cast<std::uint64_t>(cols)}, scratch);
}

std::uint64_t LinearRunner::worker_bytes(const DecoderModel& model, std::int64_t tokens) {
  std::int64_t longest = model.config.hidden;
  std::int64_t widest = 4;  // bytes of a stored element
  const auto look_at = [&](const LinearPart& part) {
    if (part.weight == nullptr) return;
    longest = std::max(longest, part.cols);
    widest = std::max(widest, bytes_of(part.weight->dtype));
  };
  for (const DecoderLayer& layer : model.layers) {
    for (const LinearPart* part : {&layer.query, &layer.output, &layer.router, &layer.shared_gate}) look_at(*part);
    for (const auto* mlps : {&layer.mlp, &layer.experts, &layer.shared_expert}) {
      for (const GatedMlp& mlp : *mlps) look_at(mlp.down);
    }
  }
  const auto elements = static_cast<std::uint64_t>(kItemRows * longest);
  const std::int64_t padded = (tokens + kPanelTokens - 1) / kPanelTokens * kPanelTokens;
  return Workspace::cost(OpenCheckpoint::kScratchBytes) +
         Workspace::cost(elements * static_cast<std::uint64_t>(widest)) + Workspace::cost(elements * kFloat) +
         Workspace::cost(static_cast<std::uint64_t>(kItemRows * padded) * kFloat);
}

std::vector<LinearRunner::Item> LinearRunner::cut(const std::vector<LinearTask>& tasks) {
  std::vector<Item> items;
  for (const LinearTask& task : tasks) {
    if (task.in->tokens() == 0) continue;
    for (std::int64_t begin = 0; begin < task.matrix->rows; begin += kItemRows) {
      items.push_back({&task, begin, std::min(kItemRows, task.matrix->rows - begin)});
    }
  }
  return items;
}

void LinearRunner::run(const std::vector<LinearTask>& tasks) {
  const std::vector<Item> items = cut(tasks);
  const auto ranks = static_cast<std::size_t>(parts_.exchange.size());
  const auto rank = static_cast<std::size_t>(parts_.exchange.rank());
  const std::size_t begin = items.size() * rank / ranks;
  const std::size_t end = items.size() * (rank + 1) / ranks;
  parallel_for(parts_.buffers.workers(), static_cast<std::int64_t>(end - begin), parts_.stop,
               [&](int worker, std::int64_t index) {
                 compute(items[begin + static_cast<std::size_t>(index)], parts_.buffers.of(worker));
               });
  if (ranks > 1) exchange(items);
  for (const LinearTask& task : tasks) parts_.progress.tensors_done += task.gate == nullptr ? 1 : 2;
}

void LinearRunner::compute(const Item& item, std::span<std::byte> memory) {
  const LinearTask& task = *item.task;
  const Panels& out = *task.out;
  float* const rows = out.row(0, item.begin);
  multiply(*task.matrix, item, rows, out.stride(), Workspace(memory));
  if (task.gate == nullptr) return;
  Workspace workspace(memory);
  auto* const gate = reinterpret_cast<float*>(workspace.take(item.bytes()).data());
  const std::int64_t count = item.rows * kPanelTokens;
  multiply(*task.gate, item, gate, count, workspace);
  for (std::int64_t panel = 0; panel < out.panels(); ++panel) {
    apply_gate(parts_.gate, gate + panel * count, rows + panel * out.stride(), count);
  }
}

void LinearRunner::multiply(const LinearPart& part, const Item& item, float* out, std::int64_t stride,
                            Workspace workspace) {
  const ByteRange elements{static_cast<std::uint64_t>((part.begin + item.begin) * part.cols),
                           static_cast<std::uint64_t>(item.rows * part.cols)};
  const std::span<std::byte> scratch = workspace.take(OpenCheckpoint::kScratchBytes);
  const std::span<std::byte> raw =
      workspace.take(elements.bytes * static_cast<std::uint64_t>(bytes_of(part.weight->dtype)));
  auto* const weights = reinterpret_cast<float*>(workspace.take(elements.bytes * kFloat).data());
  read_elements(parts_.source, *part.weight, scratch, elements, raw, weights);
  const Panels& in = *item.task->in;
  parts_.multiply({.weights = weights,
                   .rows = item.rows,
                   .depth = part.cols,
                   .inputs = in.panel(0),
                   .input_stride = in.stride(),
                   .outputs = out,
                   .output_stride = stride,
                   .panels = in.panels()});
  if (part.bias != nullptr) {
    const std::vector<float> bias = read_vector(parts_.source, *part.bias, scratch);
    const auto first = static_cast<std::size_t>(part.begin + item.begin);
    add_bias(std::span(bias).subspan(first, static_cast<std::size_t>(item.rows)), out, stride, in.panels());
  }
  parts_.progress.bytes_read += raw.size();
  parts_.progress.source_bytes_done += raw.size();
  parts_.progress.weights_done += elements.bytes;
}

void LinearRunner::exchange(std::span<const Item> items) {
  const auto ranks = static_cast<std::size_t>(parts_.exchange.size());
  const auto rank = static_cast<std::size_t>(parts_.exchange.rank());
  const auto items_of = [&](std::size_t which) {
    const std::size_t begin = items.size() * which / ranks;
    return items.subspan(begin, items.size() * (which + 1) / ranks - begin);
  };
  const auto for_each_run = [](const Item& item, const auto& visit) {
    const Panels& out = *item.task->out;
    const auto bytes = static_cast<std::size_t>(item.rows * kPanelTokens) * kFloat;
    for (std::int64_t panel = 0; panel < out.panels(); ++panel) visit(out.row(panel, item.begin), bytes);
  };
  std::vector<std::byte> mine;
  for (const Item& item : items_of(rank)) {
    for_each_run(item, [&](const float* values, std::size_t bytes) {
      const auto* const first = reinterpret_cast<const std::byte*>(values);
      mine.insert(mine.end(), first, first + bytes);
    });
  }
  const std::vector<std::vector<std::byte>> all = parts_.exchange.all_gather(std::move(mine));
  for (std::size_t other = 0; other < ranks; ++other) {
    if (other == rank) continue;
    std::uint64_t wanted = 0;
    for (const Item& item : items_of(other)) wanted += item.bytes();
    HALFQUAD_REQUIRE(all[other].size() == wanted, kInternal,
                     fmt::format("rank {} sent {} bytes of a layer and not {}", other, all[other].size(), wanted));
    const std::byte* from = all[other].data();
    for (const Item& item : items_of(other)) {
      for_each_run(item, [&](float* values, std::size_t bytes) {
        std::memcpy(values, from, bytes);
        from += bytes;
      });
      parts_.progress.source_bytes_done += item.source_bytes();
      parts_.progress.weights_done += item.weights();
    }
  }
}

}  // namespace halfquad
