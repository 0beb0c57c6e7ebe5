#include "sharding/forward/attention.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/portable_math.h"
#include "runtime/parallel.h"

namespace halfquad {
namespace {

/// Keys and values of one head for the tokens of one sequence.
struct Remembered {
  std::size_t length = 0;
  std::vector<float> keys;    // [head_size, length]
  std::vector<float> values;  // [length, head_size]
};

/// (1 + tanh x) / 2 = 1 / (1 + e^-2x)
double tanh_of(double x) { return 2 / (1 + portable::exp(-2 * x)) - 1; }

/// Scores become what each remembered token counts.
void softmax(const AttentionShape& shape, std::span<float> scores) {
  std::vector<double> exact;
  double most = 0;
  for (const float score : scores) {
    double scaled = double{score} * shape.scale;
    if (shape.softcap > 0) scaled = shape.softcap * tanh_of(scaled / shape.softcap);
    most = exact.empty() ? scaled : std::max(most, scaled);
    exact.push_back(scaled);
  }
  double sum = 0;
  for (double& value : exact) sum += value = portable::exp(value - most);
  for (std::size_t i = 0; i < exact.size(); ++i) scores[i] = static_cast<float>(exact[i] / sum);
}

class Attention {
 public:
  Attention(const AttentionShape& shape, const Panels& query, const Panels& key, const Panels& value, const Panels& out)
      : shape_(shape), query_(query), key_(key), value_(value), out_(out) {}

  /// One head of keys and values and the queries that share it, for tokens [begin, end).
  void attend(std::int64_t begin, std::int64_t end, std::int64_t head) const {
    const Remembered known = remember(begin, end, head);
    const std::int64_t sharing = shape_.heads / shape_.key_value_heads;
    for (std::int64_t i = 0; i < sharing; ++i) {
      for (std::int64_t token = begin; token < end; ++token) look_back(known, begin, token, head * sharing + i);
    }
  }

 private:
  [[nodiscard]] Remembered remember(std::int64_t begin, std::int64_t end, std::int64_t head) const {
    Remembered known;
    known.length = static_cast<std::size_t>(end - begin);
    for (std::int64_t f = head * shape_.head_size; f < (head + 1) * shape_.head_size; ++f) {
      for (std::int64_t token = begin; token < end; ++token) known.keys.push_back(key_.at(f, token));
    }
    for (std::int64_t token = begin; token < end; ++token) {
      for (std::int64_t f = head * shape_.head_size; f < (head + 1) * shape_.head_size; ++f) {
        known.values.push_back(value_.at(f, token));
      }
    }
    return known;
  }

  void look_back(const Remembered& known, std::int64_t begin, std::int64_t token, std::int64_t head) const {
    const auto seen = static_cast<std::size_t>(token - begin + 1);
    const auto size = static_cast<std::size_t>(shape_.head_size);
    std::vector<float> scores(seen);
    for (std::size_t f = 0; f < size; ++f) {
      const float q = query_.at(head * shape_.head_size + static_cast<std::int64_t>(f), token);
      const float* const keys = known.keys.data() + f * known.length;
      for (std::size_t j = 0; j < seen; ++j) scores[j] += q * keys[j];
    }
    softmax(shape_, scores);
    std::vector<float> sums(size);
    for (std::size_t j = 0; j < seen; ++j) {
      const float* const values = known.values.data() + j * size;
      for (std::size_t f = 0; f < size; ++f) sums[f] += scores[j] * values[f];
    }
    for (std::size_t f = 0; f < size; ++f) {
      out_.at(head * shape_.head_size + static_cast<std::int64_t>(f), token) = sums[f];
    }
  }

  const AttentionShape& shape_;
  const Panels &query_, &key_, &value_, &out_;
};

}  // namespace

void attend(const Workers& workers, const AttentionShape& shape, const TokenBatch& batch, const Panels& query,
            const Panels& key, const Panels& value, const Panels& out) {
  const Attention attention(shape, query, key, value, out);
  parallel_for(workers.threads, batch.sequences() * shape.key_value_heads, workers.stop, [&](int, std::int64_t index) {
    const auto sequence = static_cast<std::size_t>(index / shape.key_value_heads);
    attention.attend(batch.begins[sequence], batch.begins[sequence + 1], index % shape.key_value_heads);
  });
}

}  // namespace halfquad
