#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>
#include <hdf5.h>

#include "io/hdf5_feature.h"
#include "io/hdf5_image.h"
#include "io/hdf5_reader.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_file.h"
#include "tests/support/temp_dir.h"

/// HDF5 1.10 loses memory of its own when it meets a damaged file.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace halfquad {
namespace {

using test::expect_error;

Hdf5Tree small_tree() {
  Hdf5Tree tree;
  tree.attributes = {{"format", "halfquad"}, {"version", 1}};
  tree.groups = {{"q/m", {{"name", "m"}, {"shape", std::vector<std::int64_t>{3, 5}}}}};
  tree.datasets = {{.path = "q/m/codes", .dtype = DType::kU8, .shape = {3, 5}, .attributes = {}, .content = {}},
                   {.path = "t/w", .dtype = DType::kF32, .shape = {64}, .attributes = {}, .content = {}}};
  return tree;
}

Hdf5File read(std::string bytes) {
  MemoryReadFile file(std::move(bytes));
  return read_hdf5(file, "m.h5");
}

/// A file as HDF5 writes it with its own driver.
std::string file_of(const std::function<void(hid_t file)>& fill, H5F_libver_t version = H5F_LIBVER_V110) {
  static_cast<void>(hdf5_feature());  // must be the first to use HDF5
  const test::TempDir directory;
  const std::string path = (directory.path() / "m.h5").string();
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_libver_bounds(access, version, H5F_LIBVER_V110);
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access);
  H5Pclose(access);
  fill(file);
  EXPECT_GE(H5Fclose(file), 0);
  return test::get_file(path);
}

/// A dataset "d" of 256 elements with the properties that `set` sets.
void put_dataset(hid_t file, const std::function<void(hid_t)>& set, hid_t type = H5T_STD_U8LE) {
  const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY);
  set(creation);
  const hsize_t extent = 256;
  const hid_t space = H5Screate_simple(1, &extent, nullptr);
  const hid_t dataset = H5Dcreate2(file, "d", type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  EXPECT_GE(dataset, 0);
  H5Dclose(dataset);
  H5Sclose(space);
  H5Pclose(creation);
}

struct Defect {
  const char* name;
  void (*spoil)(std::string& bytes);
  const char* reason;
};

class SpoiledHdf5 : public ::testing::TestWithParam<Defect> {};

TEST_P(SpoiledHdf5, IsRefusedWithItsOwnReason) {
  std::string bytes = test::bytes_of(hdf5_image(small_tree()));
  GetParam().spoil(bytes);

  expect_error(ErrorCode::kBadInput, {"\"m.h5\": ", GetParam().reason}, [&] { static_cast<void>(read(bytes)); });
}

/// Changes a byte of the piece that begins with `signature`.
void flip(std::string& bytes, std::string_view signature, std::size_t at) {
  const std::size_t found = bytes.find(signature);
  ASSERT_NE(found, std::string::npos) << signature;
  bytes[found + at] = static_cast<char>(bytes[found + at] ^ 0x10);
}

INSTANTIATE_TEST_SUITE_P(
    Bytes, SpoiledHdf5,
    ::testing::Values(
        Defect{"empty", [](std::string& b) { b.clear(); }, "0 bytes are too few"},
        Defect{"tiny", [](std::string& b) { b.resize(47); }, "47 bytes are too few"},
        Defect{"magic", [](std::string& b) { b[1] = 'h'; }, "it is not an HDF5 file"},
        Defect{"superblock_0", [](std::string& b) { b[8] = 0; }, "it has superblock version 0"},
        Defect{"superblock_4", [](std::string& b) { b[8] = 4; }, "it has superblock version 4"},
        Defect{"offsets_4", [](std::string& b) { b[9] = 4; }, "its offsets and lengths have 4 and 8 bytes"},
        Defect{"in_use", [](std::string& b) { b[11] = 5; }, "it is open for writing, or its writer died"},
        Defect{"base", [](std::string& b) { b[12] = 1; }, "it begins at offset 1 of the file"},
        Defect{"cut", [](std::string& b) { b.pop_back(); }, "it is cut off after"},
        Defect{"longer", [](std::string& b) { b += "xyz"; }, "there are 3 bytes behind its end"},
        Defect{"superblock_sum", [](std::string& b) { b[44] ^= 1; }, "cannot open it: HDF5: "},
        Defect{"root_place", [](std::string& b) { b[36] ^= 1; }, "cannot open it: HDF5: "},
        Defect{"root_header", [](std::string& b) { flip(b, "OHDR", 20); }, "HDF5: "},
        Defect{"texts_signature", [](std::string& b) { flip(b, "GCOL", 0); }, "cannot read the value of \"/"},
        Defect{"texts_size", [](std::string& b) { b[b.find("GCOL") + 13] = 1; }, "the collection of texts at"},
        Defect{"text_number", [](std::string& b) { b[b.find("GCOL") + 16] = 9; }, "text 1 in the collection at"},
        Defect{"text_length", [](std::string& b) { b[b.find("GCOL") + 16 + 13] = 9; }, "text 1 in the collection at"},
        Defect{"text_utf8", [](std::string& b) { b[b.find("GCOL") + 32] = '\xff'; }, "is not UTF-8"}),
    [](const auto& info) { return std::string(info.param.name); });

struct Foreign {
  const char* name;
  void (*fill)(hid_t file);
  const char* reason;
};

class ForeignHdf5 : public ::testing::TestWithParam<Foreign> {};

TEST_P(ForeignHdf5, IsRefusedWithItsOwnReason) {
  const std::string bytes = file_of(GetParam().fill);

  expect_error(ErrorCode::kBadInput, {"\"m.h5\": ", GetParam().reason}, [&] { static_cast<void>(read(bytes)); });
}

void chunked(hid_t creation) {
  const hsize_t chunk = 64;
  H5Pset_chunk(creation, 1, &chunk);
}

INSTANTIATE_TEST_SUITE_P(
    Datasets, ForeignHdf5,
    ::testing::Values(
        Foreign{"chunked", [](hid_t f) { put_dataset(f, chunked); }, "\"/d\" is stored in chunks instead"},
        Foreign{"compressed",
                [](hid_t f) {
                  put_dataset(f, [](hid_t p) {
                    chunked(p);
                    H5Pset_deflate(p, 1);
                  });
                },
                "\"/d\" is stored in compressed chunks"},
        Foreign{"compact", [](hid_t f) { put_dataset(f, [](hid_t p) { H5Pset_layout(p, H5D_COMPACT); }); },
                "\"/d\" is stored in its header"},
        Foreign{"external", [](hid_t f) { put_dataset(f, [](hid_t p) { H5Pset_external(p, "x", 0, 256); }); },
                "\"/d\" is stored in other files"},
        Foreign{"late", [](hid_t f) { put_dataset(f, [](hid_t p) { H5Pset_alloc_time(p, H5D_ALLOC_TIME_LATE); }); },
                "\"/d\" has no data in the file"},
        Foreign{"big_endian",
                [](hid_t f) {
                  put_dataset(
                      f, [](hid_t) {}, H5T_STD_U16BE);
                },
                "\"/d\" has elements that"},
        Foreign{"text",
                [](hid_t f) {
                  put_dataset(
                      f, [](hid_t) {}, H5T_C_S1);
                },
                "\"/d\" has elements that"}),
    [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Links, ForeignHdf5,
    ::testing::Values(
        Foreign{"soft", [](hid_t f) { H5Lcreate_soft("/", f, "s", H5P_DEFAULT, H5P_DEFAULT); }, "\"/s\" is a link"},
        Foreign{"external", [](hid_t f) { H5Lcreate_external("o.h5", "/", f, "e", H5P_DEFAULT, H5P_DEFAULT); },
                "\"/e\" is a link"},
        Foreign{"loop",
                [](hid_t f) {
                  const hid_t group = H5Gcreate2(f, "g", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
                  H5Lcreate_hard(f, "g", group, "again", H5P_DEFAULT, H5P_DEFAULT);
                  H5Gclose(group);
                },
                "\"/g\" is there under more than one name"},
        Foreign{"to_root", [](hid_t f) { H5Lcreate_hard(f, "/", f, "again", H5P_DEFAULT, H5P_DEFAULT); },
                "\"/\" is there under more than one name"},
        Foreign{"named_type",
                [](hid_t f) {
                  const hid_t type = H5Tcopy(H5T_STD_U8LE);
                  H5Tcommit2(f, "type", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
                  H5Tclose(type);
                },
                "\"/type\" is neither a group nor a dataset"},
        Foreign{"deep",
                [](hid_t f) {
                  std::string path;
                  for (int i = 0; i < 70; ++i) {
                    path += "/g";
                    H5Gclose(H5Gcreate2(f, path.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
                  }
                },
                "is more than 64 groups deep"},
        Foreign{"name", [](hid_t f) { H5Gclose(H5Gcreate2(f, "..", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)); },
                "\"/..\" has a name that is not taken"}),
    [](const auto& info) { return std::string(info.param.name); });

/// The checksum of HDF5's metadata: Jenkins' lookup3 in its bytewise form.
std::uint32_t lookup3(std::string_view bytes) {
  std::array<std::uint32_t, 3> s;
  s.fill(0xdeadbeefU + static_cast<std::uint32_t>(bytes.size()));
  const auto mix = [&s](std::size_t to, std::size_t from, int by) {
    s[to] = (s[to] - s[from]) ^ std::rotl(s[from], by);
  };
  const auto last = [&s](std::size_t to, std::size_t from, int by) {
    s[to] = (s[to] ^ s[from]) - std::rotl(s[from], by);
  };
  while (!bytes.empty()) {
    const std::string_view part = bytes.substr(0, 12);
    for (std::size_t i = 0; i < part.size(); ++i) {
      s[i / 4] += static_cast<std::uint32_t>(static_cast<unsigned char>(part[i])) << (i % 4 * 8);
    }
    if (bytes.size() <= 12) break;
    mix(0, 2, 4), s[2] += s[1], mix(1, 0, 6), s[0] += s[2], mix(2, 1, 8), s[1] += s[0];
    mix(0, 2, 16), s[2] += s[1], mix(1, 0, 19), s[0] += s[2], mix(2, 1, 4), s[1] += s[0];
    bytes.remove_prefix(12);
  }
  last(2, 1, 14), last(0, 2, 11), last(1, 0, 25), last(2, 1, 16), last(0, 2, 4), last(1, 0, 14), last(2, 1, 24);
  return s[2];
}

std::string little_endian(std::uint64_t value, std::size_t bytes) {
  std::string out(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) out[i] = static_cast<char>(value >> (8 * i) & 0xffU);
  return out;
}

/// Puts `to` for the number `from` in the first header of an object that has it, with a checksum that is right again.
void forge(std::string& bytes, std::uint64_t from, std::uint64_t to) {
  for (std::size_t at = bytes.find("OHDR"); at != std::string::npos; at = bytes.find("OHDR", at + 4)) {
    const std::size_t width = std::size_t{1} << (static_cast<unsigned char>(bytes[at + 5]) & 3U);
    std::size_t length = 6 + width;
    for (std::size_t i = 0; i < width; ++i)
      length += std::size_t{static_cast<unsigned char>(bytes[at + 6 + i])} << 8 * i;
    const std::size_t place = bytes.find(little_endian(from, 8), at);
    if (place > at + length - 8) continue;
    bytes.replace(place, 8, little_endian(to, 8));
    bytes.replace(at + length, 4, little_endian(lookup3(std::string_view(bytes).substr(at, length)), 4));
    return;
  }
  FAIL() << "no header has " << from;
}

TEST(Hdf5Reader, RefusesDataBehindTheEnd) {
  const FileImage image = hdf5_image(small_tree());
  std::string bytes = test::bytes_of(image);
  forge(bytes, image.offsets[1], image.bytes - 255);

  expect_error(ErrorCode::kBadInput, {"\"/t/w\"", "256 bytes at offset", "behind the end of the file"},
               [&] { static_cast<void>(read(bytes)); });
}

TEST(Hdf5Reader, RefusesDataAtTheSamePlace) {
  const FileImage image = hdf5_image(small_tree());
  std::string bytes = test::bytes_of(image);
  forge(bytes, image.offsets[0], image.offsets[1] + 200);

  expect_error(ErrorCode::kBadInput, {"\"/q/m/codes\" overlaps \"/t/w\""}, [&] { static_cast<void>(read(bytes)); });
}

TEST(Hdf5Reader, RefusesAShapeThatTheDataDoNotFill) {
  std::string bytes = test::bytes_of(hdf5_image(small_tree()));
  forge(bytes, 64, 1ULL << 50);

  expect_error(ErrorCode::kBadInput, {"/t/w"}, [&] { static_cast<void>(read(bytes)); });
}

TEST(Hdf5Reader, TakesAttributesOfOtherTypesAsNothing) {
  const std::string bytes = file_of([](hid_t file) {
    const hid_t space = H5Screate(H5S_SCALAR);
    const double real = 0.5;
    const std::int64_t large = 1LL << 40;
    const std::array<char, 6> padded = {'a', 'b', '\0', 'c', ' ', ' '};
    const hid_t text = H5Tcopy(H5T_C_S1);
    H5Tset_size(text, padded.size());
    const auto put = [&](const char* name, hid_t type, hid_t memory, const void* from) {
      const hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
      H5Awrite(attribute, memory, from);
      H5Aclose(attribute);
    };
    put("large", H5T_STD_I64LE, H5T_NATIVE_INT64, &large);
    put("real", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &real);
    put("small", H5T_STD_I64BE, H5T_NATIVE_INT64, &(const std::int64_t&)std::int64_t{-7});
    put("text", text, text, padded.data());
    H5Tclose(text);
    H5Sclose(space);
  });

  const Hdf5File file = read(bytes);

  const std::vector<Hdf5Attribute> expected = {
      {"large", std::monostate()}, {"real", std::monostate()}, {"small", -7}, {"text", "ab"}};
  EXPECT_EQ(file.tree.attributes, expected);
}

TEST(Hdf5Reader, RefusesTheOldSuperblock) {
  const std::string bytes = file_of([](hid_t) {}, H5F_LIBVER_EARLIEST);

  expect_error(ErrorCode::kBadInput, {"it has superblock version 0; versions 2 and 3"},
               [&] { static_cast<void>(read(bytes)); });
}

TEST(Hdf5Reader, SaysWhenTheFileCannotBeRead) {
  /// A disk that breaks after the superblock.
  class BrokenFile final : public ReadFile {
   public:
    explicit BrokenFile(std::string bytes) : size_(bytes.size()), good_(std::move(bytes)) {}
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] std::span<std::byte> read(std::uint64_t offset, std::size_t bytes,
                                            std::span<std::byte> scratch) override {
      if (offset >= 48) throw Error(ErrorCode::kIo, "the disk is broken");
      return good_.read(offset, bytes, scratch);
    }

   private:
    std::uint64_t size_;
    MemoryReadFile good_;
  };
  BrokenFile file(test::bytes_of(hdf5_image(small_tree())));

  expect_error(ErrorCode::kIo, {"the disk is broken"}, [&] { static_cast<void>(read_hdf5(file, "m.h5")); });
}

TEST(Hdf5Reader, NeverTakesAFileWithAChangedByteForAnother) {
  const std::string good = test::bytes_of(hdf5_image(small_tree()));
  const Hdf5File expected = read(good);
  std::size_t refused = 0;
  for (std::size_t at = 0; at < good.size(); ++at) {
    if (good[at] == '\0' && at % 16 != 0) continue;
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x55);
    try {
      const Hdf5File file = read(bytes);
      EXPECT_EQ(file.offsets, expected.offsets) << at;
      EXPECT_EQ(file.tree.datasets, expected.tree.datasets) << at;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.what();
      ++refused;
    }
  }

  EXPECT_GT(refused, 500U);
}

}  // namespace
}  // namespace halfquad
