#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/gguf_files.h"
#include "io/posix_file_system.h"
#include "tests/support/expect_error.h"
#include "tests/support/gguf_file.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

using test::expect_error;
using test::gguf_file;
using testing::ElementsAre;

/// What the header of a part says about the whole.
struct Split {
  std::uint16_t number = 0;
  std::uint16_t count = 2;
  std::int32_t tensors = 3;
};

std::vector<GgufKey> keys_of(const Split& split) {
  return {{"split.no", split.number}, {"split.count", split.count}, {"split.tensors.count", split.tensors}};
}

class GgufFilesTest : public testing::Test {
 protected:
  [[nodiscard]] std::filesystem::path at(const std::string& name) const { return directory_.path() / name; }
  void put(const std::string& name, const std::string& bytes) const { test::put_file(at(name), bytes); }
  [[nodiscard]] GgufFiles open(const std::string& name) const { return open_gguf_files(*fs_, at(name)); }

  /// Two parts, of two tensors and of one.
  void put_parts(std::vector<GgufKey> first, const std::vector<GgufKey>& second) const {
    first.insert(first.begin(), {"general.architecture", std::string("llama")});
    put("m-00001-of-00002.gguf", gguf_file(first, {{"a", {8}}, {"b", {2, 3}}}));
    put("m-00002-of-00002.gguf", gguf_file(second, {{"c", {4}}}));
  }
  void expect_refused(std::initializer_list<std::string_view> parts, const std::string& name) const {
    expect_error(ErrorCode::kBadInput, parts, [&] { static_cast<void>(open(name)); });
  }

  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
  test::TempDir directory_;
};

TEST_F(GgufFilesTest, OneFileIsAModel) {
  put("m.gguf", gguf_file({{"general.alignment", std::uint32_t{64}}}, {{"a", {2}}, {"b", {8}}}));

  const GgufFiles files = open("m.gguf");

  ASSERT_EQ(files.files.size(), 1U);
  EXPECT_EQ(files.files[0].name, "m.gguf");
  EXPECT_EQ(files.files[0].bytes, std::filesystem::file_size(at("m.gguf")));
  EXPECT_EQ(files.model().tensors.size(), 2U);
  EXPECT_EQ(files.places()[1].offset, files.headers[0].data_start + 64);
}

TEST_F(GgufFilesTest, TheDigestIsOfTheHeaderAlone) {
  put("a.gguf", gguf_file({}, {{"t", {2}, GgmlTypeId::kF32, "12345678"}}));
  put("b.gguf", gguf_file({}, {{"t", {2}, GgmlTypeId::kF32, "87654321"}}));
  put("c.gguf", gguf_file({}, {{"u", {2}, GgmlTypeId::kF32, "12345678"}}));

  const std::uint64_t digest = open("a.gguf").files[0].header_digest;

  EXPECT_EQ(open("b.gguf").files[0].header_digest, digest);
  EXPECT_NE(open("c.gguf").files[0].header_digest, digest);
}

TEST_F(GgufFilesTest, AnyPartOpensTheWholeModel) {
  put_parts(keys_of({0}), keys_of({1}));

  for (const char* name : {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}) {
    const GgufFiles files = open(name);

    ASSERT_EQ(files.files.size(), 2U);
    EXPECT_EQ(files.files[1].name, "m-00002-of-00002.gguf");
    const GgufHeader model = files.model();
    ASSERT_EQ(model.keys.size(), 1U);
    EXPECT_EQ(model.keys[0].name, "general.architecture");
    std::vector<std::string> names;
    std::vector<int> of;
    for (const GgufTensor& tensor : model.tensors) names.push_back(tensor.name);
    for (const GgufFiles::Place& place : files.places()) of.push_back(place.file);
    EXPECT_THAT(names, ElementsAre("a", "b", "c"));
    EXPECT_THAT(of, ElementsAre(0, 0, 1));
    EXPECT_EQ(files.places()[2].offset, files.headers[1].data_start);
  }
}

TEST_F(GgufFilesTest, AModelOfOnePartIsOneFile) {
  put("m-00001-of-00001.gguf", gguf_file(keys_of({0, 1, 1}), {{"a", {8}}}));

  put("n-00001-of-00001.gguf", gguf_file({}, {{"a", {8}}}));

  EXPECT_EQ(open("m-00001-of-00001.gguf").files.size(), 1U);
  EXPECT_EQ(open("n-00001-of-00001.gguf").files.size(), 1U);
}

// ---- one test a defect

TEST_F(GgufFilesTest, AMissingPart) {
  put_parts(keys_of({0}), keys_of({1}));
  std::filesystem::remove(at("m-00002-of-00002.gguf"));
  expect_refused({"m-00002-of-00002.gguf\" is missing", "2 files"}, "m-00001-of-00002.gguf");
}

TEST_F(GgufFilesTest, AMissingFirstPart) {
  put_parts(keys_of({0}), keys_of({1}));
  std::filesystem::remove(at("m-00001-of-00002.gguf"));
  expect_refused({"m-00001-of-00002.gguf\" is missing"}, "m-00002-of-00002.gguf");
}

TEST_F(GgufFilesTest, APartUnderTheNameOfAnother) {
  put_parts(keys_of({0}), keys_of({0}));
  expect_refused({"m-00002-of-00002.gguf\"", "split.no is 0 instead of 1"}, "m-00001-of-00002.gguf");
}

TEST_F(GgufFilesTest, APartOfAnotherNumberOfParts) {
  put_parts(keys_of({0}), keys_of({1, 3}));
  expect_refused({"m-00002-of-00002.gguf\"", "split.count is 3 instead of 2"}, "m-00001-of-00002.gguf");
}

TEST_F(GgufFilesTest, APartOfAnotherNumberOfTensors) {
  put_parts(keys_of({0}), keys_of({1, 2, 4}));
  expect_refused({"m-00002-of-00002.gguf\"", "split.tensors.count is 4 instead of 3"}, "m-00001-of-00002.gguf");
}

TEST_F(GgufFilesTest, PartsThatHoldAnotherNumberOfTensorsThanTheySay) {
  put_parts(keys_of({0, 2, 4}), keys_of({1, 2, 4}));
  expect_refused({"split.tensors.count is 4, but the 2 parts hold 3 tensors"}, "m-00001-of-00002.gguf");
}

TEST_F(GgufFilesTest, APartWithoutItsNumber) {
  put_parts(keys_of({0}), {});
  expect_refused({"m-00002-of-00002.gguf\"", "split.no is absent instead of 1"}, "m-00001-of-00002.gguf");
}

TEST_F(GgufFilesTest, APartOfAnotherArchitecture) {
  std::vector<GgufKey> second = keys_of({1});
  second.push_back({"general.architecture", std::string("gemma3")});
  put_parts(keys_of({0}), second);
  expect_refused({"m-00002-of-00002.gguf\" is a part of another model"}, "m-00001-of-00002.gguf");
}

TEST_F(GgufFilesTest, ATensorInTwoParts) {
  put_parts(keys_of({0}), keys_of({1}));
  put("m-00002-of-00002.gguf", gguf_file(keys_of({1}), {{"b", {2, 3}}}));
  expect_refused({"m-00002-of-00002.gguf\"", "tensor \"b\" is in another part"}, "m-00001-of-00002.gguf");
}

TEST_F(GgufFilesTest, APartWhoseNumberIsNoNumber) {
  put_parts(keys_of({0}), {{"split.no", std::string("1")}});
  expect_refused({"m-00002-of-00002.gguf\"", "split.no is no whole number"}, "m-00001-of-00002.gguf");
}

TEST_F(GgufFilesTest, APartThatWasRenamed) {
  put("m.gguf", gguf_file(keys_of({0}), {{"a", {8}}}));
  expect_refused({"m.gguf\" is one of 2 parts", "-00001-of-00002.gguf"}, "m.gguf");
}

// ---- what is a GGUF model

TEST_F(GgufFilesTest, AFileIsFoundByItsNameOrItsFirstBytes) {
  put("m.gguf", "no such file");
  put("sha256-1234", gguf_file({}, {{"a", {8}}}));
  put("model.safetensors", "{}");
  put("short", "GG");

  EXPECT_EQ(find_gguf_model(*fs_, at("m.gguf")), at("m.gguf"));
  EXPECT_EQ(find_gguf_model(*fs_, at("sha256-1234")), at("sha256-1234"));
  EXPECT_EQ(find_gguf_model(*fs_, at("model.safetensors")), std::nullopt);
  EXPECT_EQ(find_gguf_model(*fs_, at("short")), std::nullopt);
  EXPECT_EQ(find_gguf_model(*fs_, at("none.gguf")), std::nullopt);
}

TEST_F(GgufFilesTest, ADirectoryIsFoundByItsOnlyModel) {
  EXPECT_EQ(find_gguf_model(*fs_, directory_.path()), std::nullopt);
  put_parts(keys_of({0}), keys_of({1}));
  EXPECT_EQ(find_gguf_model(*fs_, directory_.path()), at("m-00001-of-00002.gguf"));

  put("other.gguf", "");
  expect_error(ErrorCode::kBadInput, {"2 GGUF models", "m-00001-of-00002.gguf", "other.gguf"},
               [&] { static_cast<void>(find_gguf_model(*fs_, directory_.path())); });
}

TEST_F(GgufFilesTest, OtherWeightsInADirectoryComeFirst) {
  put("m.gguf", gguf_file({}, {}));
  for (const char* name : {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"}) {
    put(name, "");
    EXPECT_EQ(find_gguf_model(*fs_, directory_.path()), std::nullopt) << name;
    std::filesystem::remove(at(name));
  }
  EXPECT_EQ(find_gguf_model(*fs_, directory_.path()), at("m.gguf"));
}

}  // namespace
}  // namespace halfquad
