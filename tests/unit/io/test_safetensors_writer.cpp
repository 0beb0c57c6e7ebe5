#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "io/checkpoint.h"
#include "io/posix_file_system.h"
#include "io/safetensors_writer.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

using test::expect_error;

std::span<const std::byte> bytes_of_text(const std::string& text) { return std::as_bytes(std::span(text)); }

std::vector<TensorEntry> two_tensors() {
  return {{"a", DType::kU8, {5}, 0, 5}, {"empty", DType::kF32, {0}, 5, 5}, {"b", DType::kU8, {2, 3}, 5, 11}};
}

class SafetensorsWriterTest : public ::testing::Test {
 protected:
  test::TempDir dir_;
  std::filesystem::path path_ = dir_.path() / "model.safetensors";
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
};

TEST_F(SafetensorsWriterTest, PiecesInAnyOrderFromAnyThreadMakeAReadableFile) {
  SafetensorsWriter writer(*fs_, path_, two_tensors(), {{"format", "pt"}});

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

TEST_F(SafetensorsWriterTest, HeaderAndLengthAreThereBeforeAnyData) {
  const SafetensorsWriter writer(*fs_, path_, two_tensors(), {});

  EXPECT_EQ(std::filesystem::file_size(path_), writer.file_bytes());
  EXPECT_EQ(Checkpoint(*fs_, path_).tensors().size(), 3U);
}

TEST_F(SafetensorsWriterTest, AFileWithoutTensorsIsWellFormed) {
  SafetensorsWriter writer(*fs_, path_, {}, {{"format", "pt"}});
  writer.finish();

  EXPECT_TRUE(Checkpoint(*fs_, path_).tensors().empty());
}

TEST_F(SafetensorsWriterTest, DataBeyondItsTensorIsRefused) {
  SafetensorsWriter writer(*fs_, path_, two_tensors(), {});

  expect_error(ErrorCode::kInternal, {"3 bytes at offset 3", "output tensor \"a\""},
               [&] { writer.write(0, 3, bytes_of_text("abc")); });
  expect_error(ErrorCode::kInternal, {"no output tensor number 3"}, [&] { writer.write(3, 0, bytes_of_text("a")); });
}

}  // namespace
}  // namespace halfquad
