#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "io/checkpoint.h"
#include "io/image_writer.h"
#include "io/posix_file_system.h"
#include "io/safetensors_header.h"
#include "tests/support/expect_error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

using test::expect_error;

std::span<const std::byte> bytes_of_text(const std::string& text) { return std::as_bytes(std::span(text)); }

std::vector<TensorEntry> two_tensors() {
  return {{"a", DType::kU8, {5}, 0, 5}, {"empty", DType::kF32, {0}, 5, 5}, {"b", DType::kU8, {2, 3}, 5, 11}};
}

using Metadata = std::map<std::string, std::string>;

std::vector<ImageWriter::Slot> slots_of(const std::vector<TensorEntry>& tensors) {
  std::vector<ImageWriter::Slot> slots;
  for (const TensorEntry& tensor : tensors) slots.push_back({tensor.name, tensor.bytes()});
  return slots;
}

ImageWriter create(FileSystem& fs, const std::filesystem::path& path, const std::vector<TensorEntry>& tensors,
                   const Metadata& metadata) {
  return {fs, path, safetensors_image(tensors, metadata), slots_of(tensors)};
}

ImageWriter attach_to(FileSystem& fs, const std::filesystem::path& path, const std::vector<TensorEntry>& tensors,
                      const Metadata& metadata, const AttachOptions& options = {}) {
  return ImageWriter::attach(fs, path, safetensors_image(tensors, metadata), slots_of(tensors), options);
}

class ImageWriterTest : public ::testing::Test {
 protected:
  test::TempDir dir_;
  std::filesystem::path path_ = dir_.path() / "model.safetensors";
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
};

TEST_F(ImageWriterTest, PiecesInAnyOrderFromAnyThreadMakeAReadableFile) {
  ImageWriter writer = create(*fs_, path_, two_tensors(), {{"format", "pt"}});

  std::thread other([&] { writer.write(2, 3, bytes_of_text("xyz")); });
  writer.write(2, 0, bytes_of_text("uvw"));
  writer.write(0, 0, bytes_of_text("hello"));
  other.join();
  writer.finish();

  const Checkpoint checkpoint(*fs_, path_);
  const std::string file = test::get_file(path_);
  EXPECT_EQ(file.size(), writer.file_bytes());
  EXPECT_EQ(file.substr(checkpoint.find("a")->offset), "hellouvwxyz");
  EXPECT_EQ(checkpoint.find("b")->offset, checkpoint.find("a")->offset + 5);
}

TEST_F(ImageWriterTest, HeaderAndLengthAreThereBeforeAnyData) {
  const ImageWriter writer = create(*fs_, path_, two_tensors(), {});

  EXPECT_EQ(std::filesystem::file_size(path_), writer.file_bytes());
  EXPECT_EQ(Checkpoint(*fs_, path_).tensors().size(), 3U);
}

TEST_F(ImageWriterTest, AFileWithoutTensorsIsWellFormed) {
  ImageWriter writer = create(*fs_, path_, {}, {{"format", "pt"}});
  writer.finish();

  EXPECT_TRUE(Checkpoint(*fs_, path_).tensors().empty());
}

TEST_F(ImageWriterTest, DataBeyondItsTensorIsRefused) {
  ImageWriter writer = create(*fs_, path_, two_tensors(), {});

  expect_error(ErrorCode::kInternal, {"3 bytes at offset 3", "output tensor \"a\""},
               [&] { writer.write(0, 3, bytes_of_text("abc")); });
  expect_error(ErrorCode::kInternal, {"no output tensor number 3"}, [&] { writer.write(3, 0, bytes_of_text("a")); });
}

constexpr AttachOptions kNow{.mode = WriteMode::kBuffered, .patience = std::chrono::milliseconds(0), .stop = nullptr};

TEST_F(ImageWriterTest, AnAttachedWriterAddsToWhatTheCreatorWrote) {
  ImageWriter creator = create(*fs_, path_, two_tensors(), {{"format", "pt"}});
  creator.write(0, 0, bytes_of_text("hello"));
  creator.sync();

  ImageWriter other = attach_to(*fs_, path_, two_tensors(), {{"format", "pt"}}, kNow);
  EXPECT_EQ(other.file_offset(2), creator.file_offset(2));
  other.write(2, 0, bytes_of_text("uvwxyz"));
  other.finish();
  creator.finish();

  const Checkpoint checkpoint(*fs_, path_);
  EXPECT_EQ(test::get_file(path_).substr(checkpoint.find("a")->offset), "hellouvwxyz");
}

TEST_F(ImageWriterTest, AttachingWritesNothing) {
  create(*fs_, path_, two_tensors(), {}).finish();
  const auto plan = std::make_shared<test::FaultPlan>();
  test::FaultyFileSystem fs(*fs_, plan);

  static_cast<void>(attach_to(fs, path_, two_tensors(), {}, kNow));

  EXPECT_EQ(plan->log(), (std::vector<std::string>{"kind " + path_.string(), "open_read " + path_.string(),
                                                   "read " + path_.string(), "open_write " + path_.string()}));
}

TEST_F(ImageWriterTest, AttachingToAnotherJobsFileIsRefusedAtOnce) {
  const auto attach = [&](const std::vector<TensorEntry>& tensors) {
    static_cast<void>(attach_to(*fs_, path_, tensors, {}));  // would wait for 30 s
  };
  create(*fs_, path_, two_tensors(), {}).finish();
  const std::string before = test::get_file(path_);
  std::vector<TensorEntry> renamed = two_tensors();
  renamed[2].name = "c";
  std::vector<TensorEntry> shorter = two_tensors();
  shorter.pop_back();

  expect_error(ErrorCode::kBadInput, {"header of", "model.safetensors\" is not the one this job writes", "--fresh"},
               [&] { attach(renamed); });
  expect_error(ErrorCode::kBadInput, {"model.safetensors\" is", "bytes long and not", "--fresh"},
               [&] { attach(shorter); });
  EXPECT_EQ(test::get_file(path_), before);
}

TEST_F(ImageWriterTest, AttachingWaitsOnlySoLongForWhatDoesNotCome) {
  const auto attach = [&] {
    AttachOptions brief = kNow;
    brief.patience = std::chrono::milliseconds(20);
    static_cast<void>(attach_to(*fs_, path_, two_tensors(), {}, brief));
  };

  expect_error(ErrorCode::kIo, {"model.safetensors\" does not exist, after waiting 20ms"}, attach);
  EXPECT_FALSE(std::filesystem::exists(path_));
  create(*fs_, path_, two_tensors(), {}).finish();
  const std::uint64_t bytes = std::filesystem::file_size(path_);
  std::filesystem::resize_file(path_, bytes - 1);
  expect_error(ErrorCode::kIo, {"bytes long and not", "after waiting 20ms", "--fresh"}, attach);
  test::put_file(path_, std::string(bytes, '\0'));
  expect_error(ErrorCode::kIo, {"the header of", "from byte 0 on, after waiting 20ms"}, attach);
}

TEST_F(ImageWriterTest, AttachingFindsAFileThatAppearsLateAndInSteps) {
  create(*fs_, path_, two_tensors(), {}).finish();
  const std::string whole = test::get_file(path_);
  std::filesystem::remove(path_);
  std::thread creator([&] {
    for (const std::string& stage : {std::string(), whole.substr(0, 9) + std::string(whole.size() - 9, '\0'), whole}) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      test::put_file(dir_.path() / "stage", stage);
      std::filesystem::rename(dir_.path() / "stage", path_);
    }
  });

  EXPECT_NO_THROW(static_cast<void>(attach_to(*fs_, path_, two_tensors(), {})));

  creator.join();
}

TEST_F(ImageWriterTest, AStopEndsTheWait) {
  StopFlag stop;
  stop.request();
  AttachOptions options;
  options.stop = &stop;

  expect_error(ErrorCode::kInterrupted, {"interrupted", "model.safetensors"},
               [&] { static_cast<void>(attach_to(*fs_, path_, two_tensors(), {}, options)); });
}

TEST_F(ImageWriterTest, SyncReportsWhatTheDiskReports) {
  const auto plan = std::make_shared<test::FaultPlan>(4);  // create, allocate, write, sync
  test::FaultyFileSystem fs(*fs_, plan);
  ImageWriter writer = create(fs, path_, two_tensors(), {});

  expect_error(ErrorCode::kIo, {"injected fault", "sync"}, [&] { writer.sync(); });
  EXPECT_NO_THROW(writer.sync());
}

}  // namespace
}  // namespace halfquad
