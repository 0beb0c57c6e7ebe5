#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "kernels/decode.h"
#include "runtime/buffer_pool.h"
#include "sharding/joined_tensor.h"
#include "sharding/open_checkpoint.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_checkpoint.h"

namespace halfquad {
namespace {

/// A matrix that conversions wrote to a file in parts.
class JoinedTensorTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kRows = 24, kCols = 10;

  JoinedTensorTest() {
    std::mt19937 random(3);
    for (float& value : values_) value = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 64;
  }

  /// What a conversion with this order makes of the matrix, behind `before` other elements of a tensor.
  JoinedPart stored(const RowOrder& order, float add = 0, DType dtype = DType::kF32, std::int64_t before = 0) {
    Conversion conversion;
    conversion.to = dtype;
    conversion.add = add;
    conversion.order = order;
    conversion.rows = kRows;
    conversion.cols = kCols;
    const auto element = static_cast<std::size_t>(bytes_of(dtype));
    const auto elements = static_cast<std::size_t>(conversion.output_elements());
    std::string bytes(static_cast<std::size_t>(before) * element, '\1');
    bytes.resize(bytes.size() + elements * element);
    conversion.apply(conversion.block(0), values_,
                     reinterpret_cast<std::byte*>(bytes.data()) + static_cast<std::size_t>(before) * element);
    const std::string name = "t" + std::to_string(tensors_.size());
    tensors_.push_back({name, dtype, {static_cast<std::int64_t>(elements) + before}, bytes});
    JoinedPart part;
    part.start = before;
    part.order = order;
    part.add = add;
    return part;
  }

  /// Reads elements [begin, end) of what `parts` make together.
  std::vector<float> read(std::vector<JoinedPart> parts, std::size_t begin, std::size_t end,
                          DType dtype = DType::kF32) {
    const auto path = temp_.path() / "t.safetensors";
    test::put_safetensors(path, tensors_);
    const Checkpoint checkpoint(*fs_, path);
    const OpenCheckpoint files(*fs_, checkpoint, ReadMode::kBuffered);
    for (std::size_t i = 0; i < parts.size(); ++i) parts[i].stored = *checkpoint.find("t" + std::to_string(i));
    SourceTensor tensor;
    tensor.decoder = joined_decoder({std::move(parts), kRows, kCols, dtype});
    const auto element = static_cast<std::uint64_t>(bytes_of(dtype));
    const ByteRange range{begin * element, (end - begin) * element};
    std::vector<std::byte> bytes(range.bytes);
    BufferPool pool(2 * OpenCheckpoint::kScratchBytes);
    const Buffer scratch = pool.acquire(OpenCheckpoint::kScratchBytes);
    files.gather(tensor, {&range, 1}, scratch.bytes(), bytes.data());
    std::vector<float> values(end - begin);
    decode_to_f32(bytes.data(), dtype, static_cast<std::int64_t>(values.size()), values.data());
    return values;
  }

  void expect_joined(const std::vector<JoinedPart>& parts) {
    EXPECT_EQ(read(parts, 0, values_.size()), values_);
    for (const auto& [begin, end] : {std::pair<std::size_t, std::size_t>{37, 38}, {5, 131}, {100, 240}}) {
      EXPECT_EQ(read(parts, begin, end), std::vector<float>(values_.begin() + static_cast<std::ptrdiff_t>(begin),
                                                            values_.begin() + static_cast<std::ptrdiff_t>(end)));
    }
  }

  test::TempDir temp_;
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
  std::vector<float> values_ = std::vector<float>(kRows * kCols);
  std::vector<test::TestTensor> tensors_;
};

using Kind = RowOrder::Kind;

TEST_F(JoinedTensorTest, UndoesEveryOrder) {
  expect_joined({stored({})});
  tensors_.clear();
  expect_joined({stored({}, 0, DType::kF32, 70)});
  tensors_.clear();
  expect_joined({stored({Kind::kInterleaved, 6, 0, 0})});
  tensors_.clear();
  expect_joined({stored({}, 1)});
}

TEST_F(JoinedTensorTest, PutsHalvesOfHeadsTogether) {
  const JoinedPart keys = stored({Kind::kTransposedSlice, 8, 0, 5});
  const JoinedPart values = stored({Kind::kSlice, 8, 5, 3});
  expect_joined({keys, values});
  EXPECT_DOUBLE_EQ((JoinedTensor{{keys, values}, kRows, kCols, DType::kBF16}.stored_per_byte()), 2) << "floats, halved";
}

TEST_F(JoinedTensorTest, RoundsToItsDtype) {
  const JoinedPart part = stored({}, 1, DType::kBF16);
  const std::vector<float> found = read({part}, 0, values_.size(), DType::kBF16);
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i], round_to(DType::kBF16, round_to(DType::kBF16, values_[i] + 1) - 1)) << i;
  }
}

TEST_F(JoinedTensorTest, HasZerosWhereNoPartHoldsARow) {
  const JoinedPart part = stored({Kind::kSlice, kRows, 0, 20});
  const std::vector<float> found = read({part}, 19 * kCols, 21 * kCols);
  EXPECT_EQ(std::vector<float>(found.begin(), found.begin() + kCols),
            std::vector<float>(values_.begin() + 19 * kCols, values_.begin() + 20 * kCols));
  EXPECT_EQ(std::vector<float>(found.begin() + kCols, found.end()), std::vector<float>(kCols));
  const JoinedTensor joined{{part}, kRows, kCols, DType::kF32};
  EXPECT_TRUE(joined.holds(19));
  EXPECT_FALSE(joined.holds(20));
  EXPECT_DOUBLE_EQ(joined.stored_per_byte(), 20.0 / kRows);
}

}  // namespace
}  // namespace halfquad
