#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <mutex>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "format_limits.h"
#include "header_checkpoint.h"
#include "sharding/format.h"
#include "sharding/rules.h"
#include "sharding/write_combiner.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kMiB = 1 << 20;

/// Layers of AWQ: their codes are [in, out]. Of one with 32,768 outputs eight tiles of 2 MiB.
class WriteCombinerTest : public ::testing::Test {
 protected:
  WriteCombinerTest()
      : format_(*format_named("awq")),
        layout_(*checkpoint_,
                decide(*checkpoint_, parse_recipe(R"({"group_size": 64})", "test"), test::limits_of(format_)),
                DType::kF16, OutputLayout::kOneFile, format_) {
    for (const TensorEntry& entry : layout_.entries()) written_.emplace_back(entry.bytes(), std::byte{0});
  }

  [[nodiscard]] const TileGeometry& tiles(std::size_t layer) const { return layout_.quantized()[layer].tiles; }
  [[nodiscard]] std::size_t codes(std::size_t layer) const { return layout_.quantized()[layer].codes; }
  /// The codes' bytes of a tile, back to back; other ones for another `seed`.
  [[nodiscard]] std::vector<std::byte> bytes_of(std::size_t layer, std::int64_t tile, std::uint32_t seed = 0) const {
    std::vector<std::byte> bytes(total_bytes(tiles(layer).code_ranges(tile)));
    std::mt19937 random(static_cast<std::uint32_t>(layer * 100 + static_cast<std::size_t>(tile)) + 1000 * seed);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    return bytes;
  }
  void add(WriteCombiner& combiner, std::size_t layer, std::int64_t tile, std::uint32_t seed = 0) const {
    const std::vector<std::byte> bytes = bytes_of(layer, tile, seed);
    std::vector<OutputPiece> pieces;
    std::size_t done = 0;
    for (const ByteRange& range : tiles(layer).code_ranges(tile)) {
      pieces.push_back({codes(layer), range.offset, std::span(bytes).subspan(done, range.bytes)});
      done += range.bytes;
    }
    combiner.add(pieces);
  }
  [[nodiscard]] bool is_written(std::size_t layer, std::int64_t tile, std::uint32_t seed = 0) {
    const std::lock_guard lock(mutex_);
    std::vector<std::byte> found;
    for (const ByteRange& range : tiles(layer).code_ranges(tile)) {
      const auto part = std::span(written_[codes(layer)]).subspan(range.offset, range.bytes);
      found.insert(found.end(), part.begin(), part.end());
    }
    return found == bytes_of(layer, tile, seed);
  }
  [[nodiscard]] WriteCombiner::Write keep() {
    return [this](std::size_t entry, std::uint64_t offset, std::span<const std::byte> data) {
      const std::lock_guard lock(mutex_);
      std::copy(data.begin(), data.end(), written_.at(entry).begin() + static_cast<std::ptrdiff_t>(offset));
      writes_.push_back({entry, offset, data.size()});
    };
  }

  /// Holds the first write until it is opened.
  class Gate {
   public:
    explicit Gate(WriteCombiner::Write into) : into_(std::move(into)) {}
    void operator()(std::size_t entry, std::uint64_t offset, std::span<const std::byte> data) {
      if (first_.exchange(false)) {
        begun_.set_value();
        go_on_.get_future().wait();
      }
      into_(entry, offset, data);
    }
    void await() { begun_.get_future().wait(); }
    void open() { go_on_.set_value(); }

   private:
    WriteCombiner::Write into_;
    std::promise<void> begun_, go_on_;
    std::atomic<bool> first_ = true;
  };

  struct Written {
    std::size_t entry = 0;
    std::uint64_t offset = 0, bytes = 0;
  };

  HeaderCheckpoint checkpoint_{{{"model.layers.0.mlp.up_proj.weight", {32'768, 1024}},
                                {"model.layers.1.mlp.up_proj.weight", {32'768, 1024}},
                                {"model.layers.2.mlp.up_proj.weight", {32'768, 1024}}}};
  const Format& format_;
  OutputLayout layout_;
  std::mutex mutex_;
  std::vector<std::vector<std::byte>> written_;  // by entry
  std::vector<Written> writes_;
};

TEST_F(WriteCombinerTest, IsForTransposedTensors) {
  const WriteCombiner combiner(layout_, 64 * kMiB, keep());
  ASSERT_EQ(tiles(0).tile_count(), 8);
  EXPECT_TRUE(combiner.takes(codes(0)));
  EXPECT_TRUE(combiner.takes(layout_.quantized()[0].scale));

  const OutputLayout rows(*checkpoint_, decide(*checkpoint_, parse_recipe(R"({"group_size": 64})", "test")),
                          DType::kF16);
  const WriteCombiner other(rows, 64 * kMiB, keep());
  EXPECT_FALSE(other.takes(rows.quantized()[0].codes));
}

TEST_F(WriteCombinerTest, ATensorWhoseTilesAreAllThereIsWrittenFromEndToEnd) {
  WriteCombiner combiner(layout_, 64 * kMiB, keep());

  for (const std::int64_t tile : {3, 0, 7, 1, 2, 6, 5}) add(combiner, 1, tile);
  EXPECT_TRUE(writes_.empty());
  add(combiner, 1, 4);

  for (std::int64_t tile = 0; tile < 8; ++tile) EXPECT_TRUE(is_written(1, tile)) << tile;
  std::uint64_t end = 0;
  for (const Written& write : writes_) {
    EXPECT_EQ(write.entry, codes(1));
    EXPECT_EQ(write.offset, end);
    end += write.bytes;
  }
  EXPECT_EQ(end, layout_.entries()[codes(1)].bytes());
  EXPECT_EQ(writes_.size(), 8U);  // of 2 MiB, not of 2 KiB
}

TEST_F(WriteCombinerTest, TilesSideBySideAreOnePieceOfEachLine) {
  WriteCombiner combiner(layout_, 64 * kMiB, keep());
  for (const std::int64_t tile : {2, 6, 1, 5, 4}) add(combiner, 0, tile);

  combiner.flush();

  for (const std::int64_t tile : {1, 2, 4, 5, 6}) EXPECT_TRUE(is_written(0, tile)) << tile;
  for (const std::int64_t tile : {0, 3, 7}) EXPECT_FALSE(is_written(0, tile)) << tile;
  const std::uint64_t width = tiles(0).code_ranges(0)[0].bytes;
  ASSERT_EQ(writes_.size(), 2 * 1024U);  // one for each of two stretches in each of the inputs' lines
  EXPECT_EQ(writes_.front().bytes, 2 * width);
  EXPECT_EQ(writes_.back().bytes, 3 * width);
}

TEST_F(WriteCombinerTest, WritesSoonerWhatItHasNoMemoryFor) {
  WriteCombiner combiner(layout_, WriteCombiner::kLeastBytes, keep());
  std::int64_t held = 0;
  while (writes_.empty()) {
    ASSERT_LT(held, 16) << "it holds more than its budget";
    add(combiner, static_cast<std::size_t>(held % 3), held / 3);
    ++held;
  }
  combiner.flush();

  for (std::int64_t i = 0; i < held; ++i) EXPECT_TRUE(is_written(static_cast<std::size_t>(i % 3), i / 3)) << i;
}

// Memory for eleven of them.
TEST_F(WriteCombinerTest, ManyTilesAtATimeTakeNoMoreThanTheBudget) {
  for (int round = 0; round < 5; ++round) {
    WriteCombiner combiner(layout_, WriteCombiner::kLeastBytes, keep());
    std::vector<std::thread> threads;
    for (std::size_t layer = 0; layer < 3; ++layer) {
      for (std::int64_t tile = 0; tile < 7; ++tile) {
        threads.emplace_back([&, layer, tile] { add(combiner, layer, tile); });
      }
    }
    for (std::thread& thread : threads) thread.join();
    combiner.flush();

    for (std::size_t layer = 0; layer < 3; ++layer) EXPECT_TRUE(is_written(layer, 0)) << layer;
    EXPECT_LE(combiner.peak_bytes(), WriteCombiner::kLeastBytes);
    for (auto& bytes : written_) std::fill(bytes.begin(), bytes.end(), std::byte{0});
  }
}

TEST_F(WriteCombinerTest, ATileThatComesAgainCountsOnce) {
  WriteCombiner combiner(layout_, 64 * kMiB, keep());
  add(combiner, 0, 2, 1);
  add(combiner, 0, 2, 2);
  for (std::int64_t tile = 3; tile < 8; ++tile) add(combiner, 0, tile);
  add(combiner, 0, 0);
  EXPECT_TRUE(writes_.empty());  // seven tiles are not all, although eight came

  combiner.flush();

  EXPECT_TRUE(is_written(0, 2, 2));
}

TEST_F(WriteCombinerTest, ATileThatComesAgainIsWrittenAfterWhatItHadBefore) {
  Gate gate(keep());
  WriteCombiner combiner(layout_, 64 * kMiB, std::ref(gate));
  add(combiner, 0, 2, 1);
  auto older = std::async(std::launch::async, [&] { combiner.flush(); });
  gate.await();
  add(combiner, 0, 2, 2);
  auto newer = std::async(std::launch::async, [&] { combiner.flush(); });

  EXPECT_EQ(newer.wait_for(50ms), std::future_status::timeout);
  EXPECT_TRUE(writes_.empty());
  gate.open();
  older.get();
  newer.get();

  EXPECT_TRUE(is_written(0, 2, 2));
}

TEST_F(WriteCombinerTest, FlushWaitsForWhatOthersAreWriting) {
  Gate gate(keep());
  WriteCombiner combiner(layout_, 64 * kMiB, std::ref(gate));
  for (std::int64_t tile = 0; tile < 7; ++tile) add(combiner, 0, tile);
  auto last = std::async(std::launch::async, [&] { add(combiner, 0, 7); });
  gate.await();

  auto flushed = std::async(std::launch::async, [&] {
    combiner.flush();
    return is_written(0, 0);  // add() had returned for it
  });

  EXPECT_EQ(flushed.wait_for(50ms), std::future_status::timeout);
  gate.open();
  EXPECT_TRUE(flushed.get());
  last.get();
}

TEST_F(WriteCombinerTest, AFailedWriteIsToldToAllWhoseTilesMayBeLost) {
  WriteCombiner combiner(layout_, 64 * kMiB, [](auto, auto, auto) { throw Error(ErrorCode::kIo, "no space"); });
  for (std::int64_t tile = 0; tile < 7; ++tile) add(combiner, 0, tile);

  test::expect_error(ErrorCode::kIo, {"no space"}, [&] { add(combiner, 0, 7); });
  test::expect_error(ErrorCode::kIo, {"no space"}, [&] { combiner.flush(); });
  test::expect_error(ErrorCode::kIo, {"no space"}, [&] { add(combiner, 1, 0); });
}

TEST_F(WriteCombinerTest, AnyThreadsInAnyOrderWriteTheSameBytes) {
  std::vector<std::pair<std::size_t, std::int64_t>> all;
  for (std::size_t layer = 0; layer < 3; ++layer) {
    for (std::int64_t tile = 0; tile < 8; ++tile) all.emplace_back(layer, tile);
  }
  for (const std::uint64_t budget : {WriteCombiner::kLeastBytes, 64 * kMiB}) {
    WriteCombiner combiner(layout_, budget, keep());
    std::shuffle(all.begin(), all.end(), std::mt19937(static_cast<std::uint32_t>(budget)));
    std::atomic<std::size_t> next = 0;
    std::atomic<bool> done = false;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (std::size_t at = next++; at < all.size(); at = next++) {
          add(combiner, all[at].first, all[at].second, 1);  // a result that is given up
          add(combiner, all[at].first, all[at].second, 2);
        }
      });
    }
    std::thread keeper([&] {
      while (!done) {
        combiner.flush();
        std::this_thread::sleep_for(5ms);
      }
    });
    for (std::thread& thread : threads) thread.join();
    done = true;
    keeper.join();
    combiner.flush();

    for (const auto& [layer, tile] : all) EXPECT_TRUE(is_written(layer, tile, 2)) << layer << " " << tile;
    for (auto& bytes : written_) std::fill(bytes.begin(), bytes.end(), std::byte{0});
  }
}

}  // namespace
}  // namespace halfquad
