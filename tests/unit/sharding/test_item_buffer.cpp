#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "runtime/buffer_pool.h"
#include "sharding/item_buffer.h"
#include "sharding/open_checkpoint.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kPage = BufferPool::kAlignment;

QuantizedTensor tensor_of(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  return {0, "layer", spec, rows, cols, TileGeometry(spec, rows, cols), 0, 0, 0};
}

std::string counting_bytes(std::size_t count) {
  std::string bytes;
  for (std::size_t i = 0; i < count; ++i) bytes += static_cast<char>(i % 251);
  return bytes;
}

std::string at(const std::byte* data, std::uint64_t bytes) { return {reinterpret_cast<const char*>(data), bytes}; }

class ItemBufferTest : public ::testing::Test {
 protected:
  /// Opens a file of some other bytes and then `bytes`, and describes them as a tensor.
  OpenCheckpoint open(const std::string& bytes) {
    test::put_file(dir_.path() / "f", std::string(kLead, 'x') + bytes);
    source_.offset = kLead;
    source_.bytes = bytes.size();
    std::vector<std::unique_ptr<ReadFile>> files;
    files.push_back(fs_->open_read(dir_.path() / "f", ReadMode::kDirect));
    return OpenCheckpoint(std::move(files));
  }
  Buffer memory(std::uint64_t bytes) { return pool_.acquire(bytes); }
  Buffer memory_for(const QuantizedTensor& tensor) {
    return memory(ItemBuffer::tile_bytes(tensor, 0, source_, DType::kF16));
  }

  static constexpr std::uint64_t kLead = 1000;
  test::TempDir dir_;
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
  BufferPool pool_{64 << 20};
  SourceTensor source_{.name = "layer.weight", .dtype = DType::kF16, .shape = {}};
};

TEST_F(ItemBufferTest, EverySlabIsReadToItsPlaceAndPaddingHasNone) {
  const std::string bytes = counting_bytes(11 * 64 * 2);
  const auto file = open(bytes);
  const QuantizedTensor tensor = tensor_of({.width = CodeWidth::k3}, 11, 64);  // ten slabs of two rows
  ItemBuffer item(memory_for(tensor), tensor, 0, source_, DType::kF16, 0);

  EXPECT_EQ(item.read(file, source_), bytes.size());

  ASSERT_EQ(item.source().slabs.size(), 10U);
  ASSERT_EQ(item.ranges().size(), 6U);
  for (std::size_t slab = 0; slab < 10; ++slab) {
    if (slab >= item.ranges().size()) {
      EXPECT_EQ(item.source().slabs[slab], nullptr);
      continue;
    }
    const ByteRange range = item.ranges()[slab];
    EXPECT_EQ(at(item.source().slabs[slab], range.bytes), bytes.substr(range.offset, range.bytes)) << slab;
  }
}

TEST_F(ItemBufferTest, RowsOfAColumnTileAreMovedTogether) {
  const std::string bytes = counting_bytes(128 * 64 * 2);
  const auto file = open(bytes);
  const QuantizedTensor tensor = tensor_of({.axis = 0}, 128, 64);
  ItemBuffer item(memory_for(tensor), tensor, 0, source_, DType::kF16, 0);

  EXPECT_EQ(item.read(file, source_), bytes.size());

  ASSERT_EQ(item.source().slabs.size(), 1U);
  EXPECT_EQ(item.ranges().size(), 64U);
  EXPECT_EQ(at(item.source().slabs[0], bytes.size()), bytes);
}

TEST_F(ItemBufferTest, ABlockOfACopiedTensorHoldsItsBytes) {
  const std::string bytes = counting_bytes(9000);
  const auto file = open(bytes);
  ItemBuffer item(memory(ItemBuffer::copy_bytes(5000)), ByteRange{4000, 5000});

  EXPECT_EQ(item.read(file, source_), 5000U);

  EXPECT_EQ(at(item.copied().data(), item.copied().size()), bytes.substr(4000, 5000));
}

TEST_F(ItemBufferTest, CodesLieAsTheirPlaceInTheFileForDirectWrites) {
  const QuantizedTensor tensor = tensor_of({}, 256, 64);
  for (const std::uint64_t offset : {0U, 8U, 4088U, 4096U, 123456U}) {
    const ItemBuffer item(memory_for(tensor), tensor, 0, source_, DType::kF16, offset);

    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(item.output().codes) % kPage, offset % kPage);
  }
}

TEST_F(ItemBufferTest, SourceAndOutputsNeverOverlap) {
  for (const QuantSpec& spec : {QuantSpec{}, QuantSpec{.width = CodeWidth::k3}, QuantSpec{.axis = 0},
                                QuantSpec{.width = CodeWidth::k8, .channel_wise = false}}) {
    const std::string bytes = counting_bytes(128 * 64 * 2);
    const auto file = open(bytes);
    const QuantizedTensor tensor = tensor_of(spec, 128, 64);
    ItemBuffer item(memory_for(tensor), tensor, 0, source_, DType::kF16, 4095);
    static_cast<void>(item.read(file, source_));

    const auto fill = [](std::byte* to, const std::vector<ByteRange>& ranges, std::byte value) {
      for (const ByteRange& range : ranges) to = std::fill_n(to, range.bytes, value);
    };
    const std::vector<ByteRange> codes = tensor.tiles.code_ranges(0);
    const std::vector<ByteRange> scales = tensor.tiles.scale_ranges(0, 2);
    fill(item.output().codes, codes, std::byte{1});
    fill(item.output().scale, scales, std::byte{2});
    fill(item.output().zero, scales, std::byte{3});

    const auto count = [&](const std::byte* from, const std::vector<ByteRange>& ranges, std::byte value) {
      for (const ByteRange& range : ranges) {
        EXPECT_EQ(std::count(from, from + range.bytes, value), static_cast<std::ptrdiff_t>(range.bytes));
        from += range.bytes;
      }
    };
    count(item.output().codes, codes, std::byte{1});
    count(item.output().scale, scales, std::byte{2});
    count(item.output().zero, scales, std::byte{3});
    std::string read;
    for (std::size_t i = 0; i < item.source().slabs.size() && item.source().slabs[i] != nullptr; ++i) {
      read += at(item.source().slabs[i], spec.axis == 0 ? bytes.size() : item.ranges()[i].bytes);
    }
    EXPECT_TRUE(read == bytes);
  }
}

TEST_F(ItemBufferTest, AMemoryTooSmallForTheTileIsABug) {
  const QuantizedTensor tensor = tensor_of({}, 256, 64);

  test::expect_error(ErrorCode::kInternal, {"too small"},
                     [&] { const ItemBuffer item(memory(kPage), tensor, 0, source_, DType::kF16, 0); });
}

TEST_F(ItemBufferTest, ReleasedMemoryGoesBackToThePool) {
  const QuantizedTensor tensor = tensor_of({}, 256, 64);
  BufferPool pool(ItemBuffer::tile_bytes(tensor, 0, source_, DType::kF16));
  ItemBuffer item(pool.acquire(pool.budget_bytes()), tensor, 0, source_, DType::kF16, 0);
  EXPECT_TRUE(pool.try_acquire(1).empty());

  item.release();

  EXPECT_FALSE(pool.try_acquire(1).empty());
}

}  // namespace
}  // namespace halfquad
