#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "io/safetensors_header.h"
#include "io/torch_file.h"
#include "io/torch_zip.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/io/torch_bytes.h"

namespace halfquad {
namespace {

using test::dict;
using test::little;
using test::put_file;
using test::raw;
using test::tensor;
using test::text;
using test::torch_entries;
using test::zip_bytes;
using test::ZipFileEntry;
using test::ZipKind;

class TorchFileTest : public testing::Test {
 protected:
  TorchFile read(const std::filesystem::path& path) {
    return read_torch_file(*fs_->open_read(path, ReadMode::kBuffered), path.filename().string());
  }
  TorchFile read_bytes(const std::string& bytes) {
    put_file(dir_.path() / "m.bin", bytes);
    return read(dir_.path() / "m.bin");
  }
  void expect_refused(const std::string& bytes, std::initializer_list<std::string_view> parts) {
    test::expect_error(ErrorCode::kBadInput, parts, [&] { static_cast<void>(read_bytes(bytes)); });
    test::expect_error(ErrorCode::kBadInput, {"\"m.bin\""}, [&] { static_cast<void>(read_bytes(bytes)); });
  }

  test::TempDir dir_;
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
  std::filesystem::path goldens_ = std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "torch";
};

const std::string kPickle = dict({text("w"), tensor()});
const std::string kData = "abcdefghijklmnopqrstuvwx";

TEST_F(TorchFileTest, HoldsWhatTorchSaved) {
  const TorchFile torch = read(goldens_ / "state.pt");
  const std::string file = test::get_file(goldens_ / "state.pt");
  const std::string wanted_file = test::get_file(goldens_ / "expected.safetensors");
  const SafetensorsHeader wanted =
      read_safetensors_header(*fs_->open_read(goldens_ / "expected.safetensors", ReadMode::kBuffered), "expected");

  EXPECT_EQ(torch.tensors.size(), wanted.tensors.size());
  std::map<std::string, TorchTensor> found;
  for (const TorchTensor& tensor : torch.tensors) found[tensor.name] = tensor;
  for (const TensorEntry& tensor : wanted.tensors) {
    const TorchTensor& actual = found.at(tensor.name);
    EXPECT_EQ(name_of(actual.dtype), name_of(tensor.dtype)) << tensor.name;
    EXPECT_EQ(actual.shape, tensor.shape) << tensor.name;
    EXPECT_EQ(file.substr(actual.offset, actual.bytes),
              wanted_file.substr(wanted.data_start + tensor.begin, tensor.bytes()))
        << tensor.name;
  }
  EXPECT_EQ(found.at("tied.weight").offset, found.at("f.weight").offset);
  EXPECT_EQ(found.at("rows.weight").offset, found.at("f.weight").offset + 16);
  EXPECT_TRUE(std::ranges::is_sorted(torch.tensors, {}, &TorchTensor::offset));
}

TEST_F(TorchFileTest, RefusesWhatIsNoStateDictOfContiguousTensors) {
  const auto expect = [&](const std::string& name, std::initializer_list<std::string_view> parts) {
    test::expect_error(ErrorCode::kBadInput, parts, [&] { static_cast<void>(read(goldens_ / name)); });
  };
  expect("transposed.pt", {"transposed.pt", "\"w\"", "not contiguous"});
  expect("nested.pt", {"nested.pt", "\"model\"", "not a tensor"});
  expect("legacy.pt", {"legacy.pt", "before version 1.6"});
}

TEST_F(TorchFileTest, ReadsArchivesWithAndWithoutZip64) {
  for (const ZipKind kind : {ZipKind::kPlain, ZipKind::kZip64}) {
    const std::string bytes = zip_bytes(torch_entries(kPickle, kData), kind);
    const TorchFile torch = read_bytes(bytes);
    ASSERT_EQ(torch.tensors.size(), 1U);
    EXPECT_EQ(bytes.substr(torch.tensors[0].offset, torch.tensors[0].bytes), kData);
  }
}

TEST_F(TorchFileTest, ACommentMayFollowTheArchive) {
  std::string bytes = zip_bytes(torch_entries(kPickle, kData));
  bytes.replace(bytes.size() - 2, 2, little(26, 2));
  bytes += raw("PK\x05\x06") + std::string(22, 'c');
  EXPECT_EQ(read_bytes(bytes).tensors.size(), 1U);
}

TEST_F(TorchFileTest, TheHeaderTellsFilesApart) {
  const std::string one = read_bytes(zip_bytes(torch_entries(kPickle, kData))).header;
  EXPECT_EQ(read_bytes(zip_bytes(torch_entries(kPickle, std::string(24, 'x')))).header, one);
  auto moved = torch_entries(kPickle, kData);
  moved.insert(moved.begin(), {"m/other", "1234"});
  EXPECT_NE(read_bytes(zip_bytes(moved)).header, one);
  EXPECT_NE(read_bytes(zip_bytes(torch_entries(dict({text("v"), tensor()}), kData))).header, one);
}

TEST_F(TorchFileTest, EntriesThatAreMissingOrWrongAreRefused) {
  auto entries = torch_entries(kPickle, kData);
  const auto with = [&](std::size_t index, const ZipFileEntry& entry) {
    auto changed = entries;
    changed[index] = entry;
    return zip_bytes(changed);
  };
  expect_refused(with(0, {"m/other.pkl", kPickle}), {"no data.pkl"});
  expect_refused(with(3, {"n/data.pkl", kPickle}), {"several pickles"});
  expect_refused(with(1, {"m/byteorder", "big"}), {"byte order", "\"big\""});
  expect_refused(with(1, {"m/byteorder", std::string(100, 'x')}), {"byteorder", "sensible"});
  expect_refused(with(2, {"m/data/1", kData}), {"\"w\"", "storage \"0\" is missing"});
  expect_refused(with(2, {"m/data/0", kData + "y"}), {"\"w\"", "25 bytes instead of 6 elements of 4"});
  expect_refused(with(3, {"m/data/0", kData}), {"\"m/data/0\" twice"});
  expect_refused(with(2, {"m/data/0", kData, 8}), {"\"m/data/0\"", "compressed"});
  expect_refused(with(2, {"m/data/0", kData, 0, 1}), {"\"m/data/0\"", "encrypted"});
}

TEST_F(TorchFileTest, FilesThatAreNoArchiveAreRefused) {
  expect_refused("PK", {"too short"});
  expect_refused(std::string(100, 'x'), {"not the zip archive"});
  expect_refused("version https://git-lfs.github.com/spec/v1\n", {"Git LFS"});
  expect_refused("\x80\x02}q", {"before version 1.6"});
  expect_refused("PK\x03\x04", {"too few bytes"});
  expect_refused(raw("PK\x03\x04") + std::string(70000, '\0'), {"cut short"});
}

/// `bytes` with `text` written over it at `at` from the end.
std::string patched(std::string bytes, std::size_t from_end, const std::string& text) {
  bytes.replace(bytes.size() - from_end, text.size(), text);
  return bytes;
}

TEST_F(TorchFileTest, DamagedDirectoriesAreRefused) {
  const std::string bytes = zip_bytes(torch_entries(kPickle, kData));
  const std::size_t directory = bytes.size() - bytes.find("PK\x01\x02");
  expect_refused(patched(bytes, 22 - 4, little(1, 2)), {"several volumes"});
  expect_refused(patched(bytes, 22 - 16, little(bytes.size(), 4)), {"directory lies outside"});
  expect_refused(patched(bytes, 22 - 12, little(bytes.size(), 4)), {"directory lies outside"});
  expect_refused(patched(bytes, 22 - 10, little(5, 2)), {"4 entries instead of 5"});
  expect_refused(patched(bytes, 22 - 12, little(directory - 22 - 1, 4)), {"directory is damaged"});
  expect_refused(patched(bytes, directory, "XX"), {"directory is damaged"});
  expect_refused(patched(bytes, directory - 28, little(60000, 2)), {"directory is damaged"});
  expect_refused(patched(bytes, directory - 24, little(1, 4)), {"data.pkl", "size that is not its own"});
  expect_refused(patched(bytes, directory - 42, little(bytes.size(), 4)), {"data.pkl", "outside the file"});
  expect_refused(patched(bytes, directory - 42, little(1, 4)), {"data.pkl", "no header"});
  const std::string big = little(bytes.size(), 4);
  expect_refused(patched(bytes, directory - 20, big + big), {"data.pkl", "outside the file"});
}

TEST_F(TorchFileTest, DamagedZip64RecordsAreRefused) {
  const std::string bytes = zip_bytes(torch_entries(kPickle, kData), ZipKind::kZip64);
  const std::size_t locator = 22 + 20, record = locator + 56;
  expect_refused(patched(bytes, locator, "XX"), {"zip64 record", "missing"});
  expect_refused(patched(bytes, locator - 8, little(bytes.size(), 8)), {"zip64 record lies outside"});
  expect_refused(patched(bytes, locator - 16, little(2, 4)), {"several volumes"});
  expect_refused(patched(bytes, record, "XX"), {"zip64 record", "missing"});
  expect_refused(patched(bytes, record - 16, little(1, 4)), {"several volumes"});
  expect_refused(patched(bytes, record - 48, little(~std::uint64_t{0}, 8)), {"directory lies outside"});
  expect_refused(patched(bytes, record - 40, little(~std::uint64_t{0}, 8)), {"directory lies outside"});
  expect_refused(patched(bytes, record - 32, little(9, 8)), {"4 entries instead of 9"});
  const std::size_t directory = bytes.size() - bytes.find("PK\x01\x02");
  const std::size_t extra = directory - 46 - std::string_view("m/data.pkl").size();
  expect_refused(patched(bytes, extra - 5, little(2, 2)), {"data.pkl", "zip64"});
  expect_refused(patched(bytes, extra - 7, little(8, 2)), {"data.pkl", "zip64"});
  expect_refused(patched(bytes, extra - 7, little(25, 2)), {"data.pkl", "zip64"});
}

TEST(TorchFileName, IsToldByItsEnd) {
  for (const char* name : {"pytorch_model.bin", "a.pt", "a.pth"}) EXPECT_TRUE(is_torch_file_name(name)) << name;
  for (const char* name : {"a.safetensors", "bin", "a.ptx"}) EXPECT_FALSE(is_torch_file_name(name)) << name;
}

}  // namespace
}  // namespace halfquad
