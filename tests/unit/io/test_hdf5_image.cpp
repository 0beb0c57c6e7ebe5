#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "io/hdf5_image.h"
#include "io/hdf5_reader.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_file.h"

namespace halfquad {
namespace {

using test::expect_error;

Hdf5Dataset dataset(std::string path, DType dtype, std::vector<std::int64_t> shape) {
  return {.path = std::move(path), .dtype = dtype, .shape = std::move(shape), .attributes = {}, .content = {}};
}

/// One of everything.
Hdf5Tree small_tree() {
  Hdf5Tree tree;
  tree.attributes = {{"format", "halfquad"}, {"version", 1}, {"long", std::string(200'000, 'x')}, {"none", ""}};
  tree.groups = {{"q/m", {{"name", "m"}, {"bits", -4}, {"shape", std::vector<std::int64_t>{3, 1LL << 40}}}},
                 {"empty", {}}};
  tree.datasets = {dataset("q/m/codes", DType::kU8, {3, 5}),
                   dataset("q/m/scale", DType::kF16, {3, 2}),
                   dataset("t/\xc3\xa9.weight", DType::kF32, {2, 2, 2}),
                   dataset("t/scalar", DType::kI64, {}),
                   dataset("t/nothing", DType::kI32, {0, 7}),
                   dataset("t/big", DType::kU16, {1024, 512})};
  tree.datasets[2].attributes = {{"dtype", "F32"}};
  tree.datasets.push_back(dataset("files/a.json", DType::kU8, {4}));
  tree.datasets.back().content = "{\n}\n";
  return tree;
}

std::uint64_t digest_of(const FileImage& image) {
  const std::string bytes = test::bytes_of(image);
  return std::hash<std::string>()(bytes);
}

TEST(Hdf5Image, IsTheSameInEveryProcess) {
  const std::uint64_t digest = digest_of(hdf5_image(small_tree()));
  if (std::getenv("HALFQUAD_TEST_DIGEST_ONLY") != nullptr) {
    fmt::print("digest {:016x}\n", digest);
    return;
  }
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string command =
      "HALFQUAD_TEST_DIGEST_ONLY=1 '" + self + "' --gtest_filter=Hdf5Image.IsTheSameInEveryProcess";

  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> other(popen(command.c_str(), "r"), pclose);
  std::string output;
  for (std::array<char, 256> line{}; std::fgets(line.data(), line.size(), other.get()) != nullptr;) {
    output += line.data();
  }

  EXPECT_EQ(digest_of(hdf5_image(small_tree())), digest);
  EXPECT_NE(output.find(fmt::format("digest {:016x}\n", digest)), std::string::npos) << output;
}

TEST(Hdf5Image, LeavesThePlacesOfDataAlone) {
  const Hdf5Tree tree = small_tree();

  const FileImage image = hdf5_image(tree);

  ASSERT_EQ(image.offsets.size(), tree.datasets.size());
  std::vector<std::pair<std::uint64_t, std::uint64_t>> taken;  // begin, end
  for (const FileImage::Fixed& fixed : image.fixed) {
    EXPECT_TRUE(taken.empty() || taken.back().second <= fixed.offset) << "fixed bytes do not ascend";
    taken.emplace_back(fixed.offset, fixed.offset + fixed.bytes.size());
  }
  const std::vector<std::uint64_t> sizes = {15, 12, 32, 8, 0, 1'048'576, 4};
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_EQ(image.offsets[i] == 0, sizes[i] == 0);
    if (sizes[i] == 0 || !tree.datasets[i].content.empty()) continue;
    taken.emplace_back(image.offsets[i], image.offsets[i] + sizes[i]);
  }
  std::ranges::sort(taken);
  for (std::size_t i = 1; i < taken.size(); ++i) EXPECT_LE(taken[i - 1].second, taken[i].first);
  EXPECT_LE(taken.back().second, image.bytes);
  EXPECT_EQ(image.offsets[5] % kHdf5Alignment, 0U);
}

TEST(Hdf5Image, ReadsBackAsTheTree) {
  Hdf5Tree tree = small_tree();
  const FileImage image = hdf5_image(tree);
  MemoryReadFile file(test::bytes_of(image));

  const Hdf5File read = read_hdf5(file, "m.h5");

  EXPECT_EQ(read.bytes, image.bytes);
  ASSERT_EQ(read.tree.datasets.size(), tree.datasets.size());
  for (std::size_t i = 0; i < tree.datasets.size(); ++i) {
    const auto found = std::ranges::find(read.tree.datasets, tree.datasets[i].path, &Hdf5Dataset::path);
    ASSERT_NE(found, read.tree.datasets.end()) << tree.datasets[i].path;
    EXPECT_EQ(read.offsets[static_cast<std::size_t>(found - read.tree.datasets.begin())], image.offsets[i]);
  }
  const auto sorted = [](Hdf5Tree of) {
    std::ranges::sort(of.groups, {}, &Hdf5Group::path);
    std::ranges::sort(of.datasets, {}, &Hdf5Dataset::path);
    for (Hdf5Group& group : of.groups) std::ranges::sort(group.attributes, {}, &Hdf5Attribute::name);
    std::ranges::sort(of.attributes, {}, &Hdf5Attribute::name);
    return of;
  };
  EXPECT_EQ(test::bytes_of(image).substr(image.offsets.back(), 4), tree.datasets.back().content);
  tree.datasets.back().content.clear();
  EXPECT_EQ(sorted(read.tree), sorted(tree));
}

TEST(Hdf5Image, NeedsNoMemoryForTheData) {
  Hdf5Tree tree;
  tree.datasets = {dataset("a/huge", DType::kF64, {1LL << 30, 1LL << 12}), dataset("b", DType::kU8, {1LL << 40})};

  const FileImage image = hdf5_image(tree);

  EXPECT_GT(image.bytes, (1ULL << 45) + (1ULL << 40));
  std::uint64_t fixed = 0;
  for (const FileImage::Fixed& piece : image.fixed) fixed += piece.bytes.size();
  EXPECT_LT(fixed, 100'000U);
}

TEST(Hdf5Image, HoldsALargeGroup) {
  Hdf5Tree tree;
  for (int i = 0; i < 3000; ++i) tree.datasets.push_back(dataset(fmt::format("tensors/t{}", i), DType::kU8, {i % 7}));
  const FileImage image = hdf5_image(tree);
  MemoryReadFile file(test::bytes_of(image));

  const Hdf5File read = read_hdf5(file, "m.h5");

  EXPECT_EQ(read.tree.datasets.size(), 3000U);
  EXPECT_LE(image.fixed.size(), 3U) << "the metadata are strewn between the data";
}

struct Defect {
  const char* name;
  void (*spoil)(Hdf5Tree& tree);
  const char* reason;
};

class BadTree : public ::testing::TestWithParam<Defect> {};

TEST_P(BadTree, IsRefusedWithItsOwnReason) {
  Hdf5Tree tree = small_tree();
  GetParam().spoil(tree);

  expect_error(ErrorCode::kBadInput, {"HDF5 cannot hold \"", GetParam().reason},
               [&] { static_cast<void>(hdf5_image(tree)); });
}

INSTANTIATE_TEST_SUITE_P(
    Paths, BadTree,
    ::testing::Values(
        Defect{"empty", [](Hdf5Tree& t) { t.datasets[0].path = ""; }, "a part of it is empty"},
        Defect{"slash_first", [](Hdf5Tree& t) { t.datasets[0].path = "/a"; }, "\"/a\": a part of it is empty"},
        Defect{"two_slashes", [](Hdf5Tree& t) { t.groups[0].path = "a//b"; }, "a part of it is empty"},
        Defect{"dot", [](Hdf5Tree& t) { t.datasets[0].path = "a/./b"; }, "a part of it is \".\" or \"..\""},
        Defect{"nul", [](Hdf5Tree& t) { t.datasets[0].path = std::string("a\0b", 3); }, "it has a NUL in it"},
        Defect{"not_utf8", [](Hdf5Tree& t) { t.datasets[0].path = "a\xff"; }, "it is not UTF-8"},
        Defect{"long_name", [](Hdf5Tree& t) { t.datasets[0].path.assign(5000, 'a'); }, "longer than 4096 bytes"},
        Defect{"same_twice", [](Hdf5Tree& t) { t.datasets[0].path = "t/scalar"; }, "two objects have this path"},
        Defect{"same_group", [](Hdf5Tree& t) { t.groups[1].path = "q/m"; }, "two objects have this path"},
        Defect{"group_is_dataset", [](Hdf5Tree& t) { t.datasets[0].path = "empty"; }, "two objects have this path"},
        Defect{"below_dataset", [](Hdf5Tree& t) { t.datasets[0].path = "t/scalar/codes"; },
               "\"t/scalar\": \"t/scalar/codes\" would be below a dataset"}),
    [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Values, BadTree,
    ::testing::Values(
        Defect{"bf16", [](Hdf5Tree& t) { t.datasets[0].dtype = DType::kBF16; }, "no element type BF16"},
        Defect{"bits_63",
               [](Hdf5Tree& t) {
                 t.datasets[0].shape = {1LL << 31, 1LL << 31, 2};
               },
               "beyond 62 bits"},
        Defect{"overflow",
               [](Hdf5Tree& t) {
                 t.datasets[0].shape = {1LL << 40, 1LL << 40};
               },
               "beyond 62 bits"},
        Defect{"negative", [](Hdf5Tree& t) { t.datasets[0].shape = {-1}; }, "beyond 62 bits"},
        Defect{"rank", [](Hdf5Tree& t) { t.datasets[0].shape.assign(33, 1); }, "more than 32 dimensions"},
        Defect{"content", [](Hdf5Tree& t) { t.datasets[0].content = "x"; }, "its content is 1 bytes, not 15"},
        Defect{"attribute_twice", [](Hdf5Tree& t) { t.attributes[0].name = "version"; }, "\"version\" is there twice"},
        Defect{"attribute_name", [](Hdf5Tree& t) { t.attributes[0].name = ""; }, "a name that is empty"},
        Defect{"text_nul", [](Hdf5Tree& t) { t.attributes[0].value = std::string("a\0b", 3); }, "a NUL in its text"},
        Defect{"text_utf8", [](Hdf5Tree& t) { t.attributes[0].value = "\xff"; }, "\"format\" is not UTF-8"},
        Defect{"no_value", [](Hdf5Tree& t) { t.attributes[0].value = std::monostate(); }, "has no value"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace halfquad
