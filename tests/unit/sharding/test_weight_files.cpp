#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "format_limits.h"
#include "header_checkpoint.h"
#include "sharding/format.h"
#include "sharding/rules.h"
#include "sharding/weight_files.h"
#include "tests/support/expect_error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_checkpoint.h"

namespace halfquad {
namespace {

using test::FaultPlan;
using test::FaultyFileSystem;

constexpr AttachOptions kAtOnce{.mode = WriteMode::kBuffered, .patience = std::chrono::milliseconds(0)};

/// An output of several files and what belongs into them.
class WeightFilesTest : public ::testing::Test {
 protected:
  WeightFilesTest()
      : layout_(*checkpoint_, decide(*checkpoint_, parse_recipe(R"({"group_size": 32})", "test")), DType::kF16, 30'000),
        log_(std::make_shared<FaultPlan>()),
        watched_(*fs_, log_) {}

  [[nodiscard]] WeightFiles create() { return {watched_, temp_.path(), layout_, WriteMode::kBuffered}; }
  [[nodiscard]] WeightFiles attach(const AttachOptions& options = kAtOnce) {
    return {watched_, temp_.path(), layout_, options};
  }
  [[nodiscard]] std::filesystem::path path(std::size_t file) const { return temp_.path() / layout_.files()[file].name; }
  /// The bytes that entry `entry` is to have.
  [[nodiscard]] std::string bytes(std::size_t entry) const {
    if (layout_.contents()[entry].kind == OutputTensor::Kind::kConstant) return layout_.contents()[entry].constant;
    const TensorEntry& tensor = layout_.entries()[entry];
    return test::random_tensor(tensor.name, tensor.dtype, tensor.shape).bytes;
  }
  void write(WeightFiles& files, std::size_t entry) const {
    const std::string data = bytes(entry);
    const auto half = data.size() / 2;
    const auto all = std::as_bytes(std::span(data));
    files.write(std::array{OutputPiece{entry, half, all.subspan(half)}, OutputPiece{entry, 0, all.first(half)}});
  }
  /// Of file `file`, one that is not known without reading.
  [[nodiscard]] std::size_t entry_in(std::size_t file) const {
    std::size_t entry = layout_.files()[file].begin;
    while (layout_.contents()[entry].kind == OutputTensor::Kind::kConstant) ++entry;
    return entry;
  }
  [[nodiscard]] bool holds(std::size_t entry) const {
    return test::get_file(path(layout_.contents()[entry].file))
               .substr(layout_.file_offset(entry), layout_.entries()[entry].bytes()) == bytes(entry);
  }
  /// Names of the files that were synced since the log was `from` long.
  [[nodiscard]] std::vector<std::string> synced(std::size_t from) const {
    std::vector<std::string> names;
    const std::vector<std::string> log = log_->log();
    for (std::size_t i = from; i < log.size(); ++i) {
      if (log[i].starts_with("sync ")) names.push_back(std::filesystem::path(log[i].substr(5)).filename().string());
    }
    return names;
  }

  HeaderCheckpoint checkpoint_{llama_tensors()};
  OutputLayout layout_;
  test::TempDir temp_;
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
  std::shared_ptr<FaultPlan> log_;
  FaultyFileSystem watched_;
};

TEST_F(WeightFilesTest, HaveTheirLengthHeadersAndConstantsFromTheStart) {
  ASSERT_GE(layout_.files().size(), 3U);

  const WeightFiles files = create();

  for (std::size_t i = 0; i < layout_.files().size(); ++i) {
    const OutputFile& file = layout_.files()[i];
    EXPECT_EQ(std::filesystem::file_size(path(i)), file.bytes());
    const std::unique_ptr<ReadFile> opened = fs_->open_read(path(i), ReadMode::kBuffered);
    const SafetensorsHeader header = read_safetensors_header(*opened, file.name);
    EXPECT_EQ(header.data_start, file.image.fixed[0].bytes.size());
    EXPECT_EQ(header.tensors.size(), file.end - file.begin);
  }
  std::size_t constants = 0;
  for (std::size_t i = 0; i < layout_.contents().size(); ++i) {
    if (layout_.contents()[i].kind != OutputTensor::Kind::kConstant) continue;
    ++constants;
    EXPECT_TRUE(holds(i)) << layout_.entries()[i].name;
  }
  EXPECT_GT(constants, 100U);
}

TEST_F(WeightFilesTest, MakeACheckpointWithTheirIndexWhoeverWrote) {
  WeightFiles creator = create();
  creator.sync();
  WeightFiles other = attach();
  for (std::size_t i = 0; i < layout_.contents().size(); ++i) {
    if (layout_.contents()[i].kind != OutputTensor::Kind::kConstant) write(i % 2 == 0 ? creator : other, i);
  }
  creator.finish();
  other.finish();
  test::put_file(temp_.path() / kIndexName, index_text(layout_));

  const Checkpoint output(*fs_, temp_.path());

  EXPECT_EQ(output.files().size(), layout_.files().size());
  EXPECT_EQ(output.tensors().size(), layout_.entries().size());
  for (std::size_t i = 0; i < layout_.contents().size(); ++i) EXPECT_TRUE(holds(i)) << layout_.entries()[i].name;
}

TEST_F(WeightFilesTest, AttachChangesNothing) {
  WeightFiles creator = create();
  write(creator, entry_in(1));
  creator.finish();
  const std::string before = test::get_file(path(1));

  attach().finish();

  EXPECT_TRUE(test::get_file(path(1)) == before);
}

TEST_F(WeightFilesTest, AnyFileThatIsMissingOrShortIsRefusedByName) {
  for (std::size_t i = 0; i < layout_.files().size(); ++i) {
    create().finish();
    std::filesystem::resize_file(path(i), layout_.files()[i].bytes() - 1);
    test::expect_error(ErrorCode::kIo, {layout_.files()[i].name, "bytes long"}, [&] { static_cast<void>(attach()); });
    std::filesystem::remove(path(i));
    test::expect_error(ErrorCode::kIo, {layout_.files()[i].name, "does not exist"},
                       [&] { static_cast<void>(attach()); });
  }
}

TEST_F(WeightFilesTest, AnyFileOfAnotherHeaderOrLengthIsRefusedAtOnce) {
  AttachOptions patient = kAtOnce;
  patient.patience = std::chrono::minutes(1);
  for (std::size_t i = 0; i < layout_.files().size(); ++i) {
    create().finish();
    std::string other = test::get_file(path(i));
    other.at(20) = static_cast<char>(other.at(20) ^ 1);
    test::put_file(path(i), other);
    test::expect_error(ErrorCode::kBadInput, {layout_.files()[i].name, "--fresh"},
                       [&] { static_cast<void>(attach(patient)); });
    create().finish();
    std::filesystem::resize_file(path(i), layout_.files()[i].bytes() + 1);
    test::expect_error(ErrorCode::kBadInput, {layout_.files()[i].name, "--fresh"},
                       [&] { static_cast<void>(attach(patient)); });
  }
}

TEST_F(WeightFilesTest, AStopEndsTheWaitForOne) {
  create().finish();
  std::filesystem::remove(path(1));
  StopFlag stop;
  stop.request();

  test::expect_error(ErrorCode::kInterrupted, {layout_.files()[1].name}, [&] {
    static_cast<void>(attach({.mode = WriteMode::kBuffered, .patience = std::chrono::minutes(1), .stop = &stop}));
  });
}

TEST_F(WeightFilesTest, SyncsOnlyWhatWasWrittenSince) {
  const auto name = [&](std::size_t file) { return layout_.files()[file].name; };
  WeightFiles files = create();
  std::size_t from = 0;
  const auto synced_now = [&] {
    from = log_->calls();
    files.sync();
    return synced(from);
  };

  EXPECT_EQ(synced_now().size(), layout_.files().size());
  EXPECT_EQ(synced_now(), std::vector<std::string>{});
  write(files, entry_in(1));
  EXPECT_EQ(synced_now(), std::vector<std::string>{name(1)});
  write(files, entry_in(2));
  write(files, entry_in(0));
  EXPECT_EQ(synced_now(), (std::vector<std::string>{name(0), name(2)}));
  EXPECT_EQ(synced_now(), std::vector<std::string>{});
}

TEST_F(WeightFilesTest, HoldTilesOfTransposedTensorsUntilTheyAreSyncedOrFinished) {
  const HeaderCheckpoint checkpoint({{"model.layers.0.mlp.up_proj.weight", {32'768, 256}}});
  const Format& awq = *format_named("awq");
  const std::vector<Decision> decisions =
      decide(*checkpoint, parse_recipe(R"({"group_size": 64})", "test"), test::limits_of(awq));
  const OutputLayout layout(*checkpoint, decisions, DType::kF16, OutputLayout::kOneFile, awq);
  const QuantizedTensor& tensor = layout.quantized()[0];
  ASSERT_EQ(tensor.tiles.tile_count(), 2);
  const std::string data = test::random_tensor("codes", DType::kI32, {4096, 256}).bytes;
  const std::filesystem::path file = temp_.path() / layout.files()[0].name;
  const auto write_tile = [&](WeightFiles& files, std::int64_t tile) {
    std::vector<OutputPiece> pieces;
    for (const ByteRange& range : tensor.tiles.code_ranges(tile)) {
      pieces.push_back({tensor.codes, range.offset, std::as_bytes(std::span(data)).subspan(range.offset, range.bytes)});
    }
    files.write(pieces);
  };
  const auto holds = [&](std::int64_t tile) {
    const std::string codes = test::get_file(file).substr(layout.file_offset(tensor.codes), data.size());
    const std::vector<ByteRange> ranges = tensor.tiles.code_ranges(tile);
    return std::all_of(ranges.begin(), ranges.end(), [&](const ByteRange& range) {
      return codes.compare(range.offset, range.bytes, data, range.offset, range.bytes) == 0;
    });
  };

  WeightFiles files(watched_, temp_.path(), layout, WriteMode::kBuffered);
  files.combine(WriteCombiner::kLeastBytes);
  write_tile(files, 1);
  EXPECT_FALSE(holds(1));
  files.sync();
  EXPECT_TRUE(holds(1));
  write_tile(files, 0);
  EXPECT_FALSE(holds(0));
  files.finish();
  EXPECT_TRUE(holds(0));

  WeightFiles others(watched_, temp_.path(), layout, WriteMode::kBuffered);
  others.combine(WriteCombiner::kLeastBytes - 1);
  write_tile(others, 0);
  EXPECT_TRUE(holds(0));
}

TEST_F(WeightFilesTest, RefusePiecesOutsideTheLayout) {
  WeightFiles files = create();
  const std::array<std::byte, 8> data{};
  test::expect_error(ErrorCode::kInternal, {"no output tensor"}, [&] {
    files.write(std::array{OutputPiece{layout_.entries().size(), 0, data}});
  });
  const std::size_t entry = entry_in(1);
  test::expect_error(ErrorCode::kInternal, {layout_.entries()[entry].name}, [&] {
    files.write(std::array{OutputPiece{entry, layout_.entries()[entry].bytes() - 7, data}});
  });
}

}  // namespace
}  // namespace halfquad
