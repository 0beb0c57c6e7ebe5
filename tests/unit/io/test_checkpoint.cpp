#include "tests/support/test_checkpoint.h"

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "io/checkpoint.h"
#include "io/posix_file_system.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/io/torch_bytes.h"

namespace halfquad {
namespace {

using test::expect_error;
using test::f32_tensor;
using test::index_text;
using test::put_file;
using test::put_safetensors;
using test::random_tensor;

constexpr const char* kIndex = "model.safetensors.index.json";

/// A file of torch.save() with one F32 tensor [2, 3].
std::string torch_file(const std::string& name, const std::string& data) {
  return test::zip_bytes(test::torch_entries(test::dict({test::text(name), test::tensor()}), data));
}

class CheckpointTest : public ::testing::Test {
 protected:
  [[nodiscard]] std::filesystem::path at(const std::string& name) const { return dir_.path() / name; }
  [[nodiscard]] Checkpoint open() { return {*fs_, dir_.path()}; }
  void expect_refusal(std::string_view a, std::string_view b = "", ErrorCode code = ErrorCode::kBadInput) {
    expect_error(code, {a, b}, [&] { static_cast<void>(open()); });
  }
  /// Two files and their index: tensors a and b in 1, c in 2.
  void put_sharded() {
    put_safetensors(at("1.safetensors"), {f32_tensor("b", {2}, {1, 2}), f32_tensor("a", {1}, {3})});
    put_safetensors(at("2.safetensors"), {f32_tensor("c", {1}, {4})});
    put_file(at(kIndex), index_text({{"a", "1.safetensors"}, {"b", "1.safetensors"}, {"c", "2.safetensors"}}));
  }

  test::TempDir dir_;
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
};

TEST_F(CheckpointTest, ReadsASingleModelFileWithItsConfig) {
  put_safetensors(at("model.safetensors"), {random_tensor("w", DType::kBF16, {4, 8}), f32_tensor("s", {}, {1})});
  put_file(at("config.json"), R"({"model_type":"llama"})");

  const Checkpoint checkpoint = open();

  ASSERT_EQ(checkpoint.tensors().size(), 2U);
  const SourceTensor& w = checkpoint.tensors()[0];
  EXPECT_EQ(w.name, "w");
  EXPECT_EQ(w.dtype, DType::kBF16);
  EXPECT_EQ(w.elements(), 32);
  EXPECT_EQ(checkpoint.find("s")->elements(), 1);
  EXPECT_EQ(checkpoint.find("s")->offset, w.offset + 64);
  EXPECT_EQ(checkpoint.find("none"), nullptr);
  EXPECT_EQ(checkpoint.tensor_bytes(), 68U);
  EXPECT_EQ(checkpoint.config()->at("model_type").as_string(), "llama");
  EXPECT_EQ(checkpoint.files()[0].bytes, std::filesystem::file_size(at("model.safetensors")));
  EXPECT_FALSE(checkpoint.is_single_file());
}

TEST_F(CheckpointTest, ReadsShardsThroughTheirIndexByFileAndOffset) {
  put_sharded();

  const Checkpoint checkpoint = open();

  ASSERT_EQ(checkpoint.tensors().size(), 3U);
  EXPECT_EQ(checkpoint.tensors()[0].name, "b");
  EXPECT_EQ(checkpoint.tensors()[1].name, "a");
  EXPECT_EQ(checkpoint.tensors()[2].name, "c");
  EXPECT_EQ(checkpoint.tensors()[2].file, 1);
  EXPECT_EQ(checkpoint.files()[1].name, "2.safetensors");
  EXPECT_FALSE(checkpoint.config().has_value());
}

TEST_F(CheckpointTest, ReadsOnlyTheFilesOfTheIndex) {
  put_sharded();
  put_safetensors(at("consolidated.safetensors"), {f32_tensor("a", {1}, {3})});

  EXPECT_EQ(open().files().size(), 2U);
}

TEST_F(CheckpointTest, ASingleModelFileWinsOverAnIndex) {
  put_sharded();
  put_safetensors(at("model.safetensors"), {f32_tensor("only", {1}, {3})});

  const Checkpoint checkpoint = open();

  ASSERT_EQ(checkpoint.files().size(), 1U);
  EXPECT_EQ(checkpoint.tensors()[0].name, "only");
}

TEST_F(CheckpointTest, WithoutIndexAllFilesAreReadInOrder) {
  put_safetensors(at("b.safetensors"), {f32_tensor("x", {1}, {3})});
  put_safetensors(at("a.safetensors"), {f32_tensor("y", {1}, {3})});
  put_file(at(".hidden.safetensors"), "not one");

  const Checkpoint checkpoint = open();

  ASSERT_EQ(checkpoint.files().size(), 2U);
  EXPECT_EQ(checkpoint.files()[0].name, "a.safetensors");
}

TEST_F(CheckpointTest, OpensOneFileAlone) {
  put_sharded();
  put_file(at("tokenizer.json"), "{}");

  const Checkpoint checkpoint(*fs_, at("1.safetensors"));

  EXPECT_TRUE(checkpoint.is_single_file());
  EXPECT_EQ(checkpoint.directory(), dir_.path());
  EXPECT_EQ(checkpoint.tensors().size(), 2U);
  EXPECT_TRUE(checkpoint.side_files().empty());
}

TEST_F(CheckpointTest, HeaderDigestFollowsTheHeader) {
  put_safetensors(at("a.safetensors"), {f32_tensor("x", {1}, {3})});
  put_safetensors(at("b.safetensors"), {f32_tensor("y", {1}, {3})});
  const std::uint64_t first = Checkpoint(*fs_, at("a.safetensors")).files()[0].header_digest;

  put_safetensors(at("a.safetensors"), {f32_tensor("x", {1}, {4})});

  EXPECT_EQ(Checkpoint(*fs_, at("a.safetensors")).files()[0].header_digest, first);
  EXPECT_NE(Checkpoint(*fs_, at("b.safetensors")).files()[0].header_digest, first);
}

TEST_F(CheckpointTest, SideFilesAreTheSmallFilesThatBelongToTheModel) {
  put_safetensors(at("model.safetensors"), {f32_tensor("x", {1}, {3})});
  for (const char* name : {"tokenizer.json", "generation_config.json", "LICENSE", "modeling.py", "config.json"}) {
    put_file(at(name), "{}");
  }
  for (const char* name : {"x.bin", "x.pt", "x.pth", "x.gguf", "x.h5", "x.msgpack", "x.onnx", "x.index.json",
                           "halfquad_report.json", ".gitattributes"}) {
    put_file(at(name), "{}");
  }
  put_file(at("big"), "");
  std::filesystem::resize_file(at("big"), (std::uintmax_t{256} << 20) + 1);
  std::filesystem::create_directory(at("onnx"));

  const Checkpoint checkpoint = open();

  EXPECT_EQ(std::vector<std::string>(checkpoint.side_files().begin(), checkpoint.side_files().end()),
            (std::vector<std::string>{"LICENSE", "generation_config.json", "modeling.py", "tokenizer.json"}));
}

TEST_F(CheckpointTest, FollowsTheLinksOfTheHuggingFaceCache) {
  std::filesystem::create_directories(at("blobs"));
  std::filesystem::create_directories(at("snapshots") / "1");
  put_safetensors(at("blobs") / "0a1b", {f32_tensor("x", {1}, {3})});
  put_file(at("blobs") / "2c3d", "{}");
  std::filesystem::create_symlink("../../blobs/0a1b", at("snapshots") / "1" / "model.safetensors");
  std::filesystem::create_symlink("../../blobs/2c3d", at("snapshots") / "1" / "tokenizer.json");

  const Checkpoint checkpoint(*fs_, at("snapshots") / "1");

  EXPECT_EQ(checkpoint.tensors().size(), 1U);
  EXPECT_EQ(checkpoint.side_files().size(), 1U);
}

TEST_F(CheckpointTest, MissingPathIsAnIoError) {
  expect_error(ErrorCode::kIo, {"none\" does not exist"}, [&] { static_cast<void>(Checkpoint(*fs_, at("none"))); });
}

TEST_F(CheckpointTest, SpecialFileIsRefused) {
  expect_error(ErrorCode::kBadInput, {"\"/dev/null\" is neither a directory nor a regular file"},
               [&] { static_cast<void>(Checkpoint(*fs_, "/dev/null")); });
}

TEST_F(CheckpointTest, EmptyDirectoryIsRefused) { expect_refusal("holds no *.safetensors file", "is empty"); }

TEST_F(CheckpointTest, DirectoryWithoutWeightsIsRefused) {
  put_file(at("notes.txt"), "");

  expect_refusal("holds no *.safetensors file", "Hugging Face checkpoint");
}

TEST_F(CheckpointTest, PicklesThatAreNoModelAreRefusedWithAdvice) {
  put_file(at("consolidated.00.pth"), "");

  expect_refusal("PyTorch pickles but no pytorch_model.bin", "\"consolidated.00.pth\"");
}

TEST_F(CheckpointTest, ReadsAPyTorchModelWithItsConfig) {
  put_file(at("pytorch_model.bin"), torch_file("w", "abcdefghijklmnopqrstuvwx"));
  put_file(at("config.json"), R"({"model_type":"llama"})");

  const Checkpoint checkpoint = open();

  ASSERT_EQ(checkpoint.tensors().size(), 1U);
  const SourceTensor& tensor = checkpoint.tensors()[0];
  EXPECT_EQ(tensor.name, "w");
  EXPECT_EQ(tensor.shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(test::get_file(checkpoint.files()[0].path).substr(tensor.offset, tensor.bytes), "abcdefghijklmnopqrstuvwx");
  EXPECT_EQ(checkpoint.config()->at("model_type").as_string(), "llama");
  EXPECT_TRUE(checkpoint.side_files().empty());
}

TEST_F(CheckpointTest, ReadsPyTorchShardsThroughTheirIndex) {
  put_file(at("pytorch_model-00001-of-00002.bin"), torch_file("a", std::string(24, 'a')));
  put_file(at("pytorch_model-00002-of-00002.bin"), torch_file("b", std::string(24, 'b')));
  const std::map<std::string, std::string> places = {{"a", "pytorch_model-00001-of-00002.bin"},
                                                     {"b", "pytorch_model-00002-of-00002.bin"}};
  put_file(at("pytorch_model.bin.index.json"), index_text(places));
  EXPECT_EQ(open().find("b")->file, 1);

  put_file(at("pytorch_model.bin.index.json"), index_text({{"a", "pytorch_model-00001-of-00002.bin"}}));
  EXPECT_EQ(open().tensors().size(), 1U);
  put_file(at("pytorch_model.bin.index.json"), index_text({{"a", "pytorch_model-00002-of-00002.bin"}}));
  expect_refusal("pytorch_model.bin.index.json", "of different versions");
}

TEST_F(CheckpointTest, PyTorchFilesYieldToSafetensors) {
  put_file(at("pytorch_model.bin"), "no archive");
  put_safetensors(at("x.safetensors"), {f32_tensor("s", {1}, {1})});
  EXPECT_EQ(open().files()[0].name, "x.safetensors");
}

TEST_F(CheckpointTest, ReadsASinglePyTorchFile) {
  put_file(at("state.pt"), torch_file("w", std::string(24, 'a')));
  const Checkpoint checkpoint(*fs_, at("state.pt"));
  EXPECT_TRUE(checkpoint.is_single_file());
  EXPECT_EQ(checkpoint.find("w")->elements(), 6);

  put_file(at("other.pt"), torch_file("v", std::string(24, 'a')));
  EXPECT_NE(Checkpoint(*fs_, at("other.pt")).files()[0].header_digest, checkpoint.files()[0].header_digest);
  put_file(at("bad.pt"), "PK");
  expect_error(ErrorCode::kBadInput, {"bad.pt", "too short"}, [&] { Checkpoint(*fs_, at("bad.pt")); });
}

TEST_F(CheckpointTest, MalformedHeaderNamesItsFile) {
  put_file(at("model.safetensors"), test::safetensors_raw("[]", ""));

  expect_refusal("model.safetensors\": the header begins with");
}

TEST_F(CheckpointTest, MalformedConfigIsRefused) {
  put_safetensors(at("model.safetensors"), {});
  put_file(at("config.json"), "{,}");

  expect_refusal("config.json\": malformed JSON", "at byte 1");
}

TEST_F(CheckpointTest, ConfigThatIsNoObjectIsRefused) {
  put_safetensors(at("model.safetensors"), {});
  put_file(at("config.json"), "[]");

  expect_refusal("config.json\": the configuration is not a JSON object");
}

TEST_F(CheckpointTest, MalformedIndexNamesTheIndex) {
  put_sharded();
  put_file(at(kIndex), index_text({{"a", "../1.safetensors"}}));

  expect_refusal(std::string(kIndex) + "\": tensor \"a\"", "not the name of a file in the model's own directory");
}

TEST_F(CheckpointTest, IndexThatNamesAMissingFileIsRefused) {
  put_sharded();
  std::filesystem::remove(at("2.safetensors"));

  expect_refusal("names the file \"2.safetensors\", which is missing");
}

TEST_F(CheckpointTest, IndexThatNamesADirectoryIsRefused) {
  put_sharded();
  std::filesystem::remove(at("2.safetensors"));
  std::filesystem::create_directory(at("2.safetensors"));

  expect_refusal("2.safetensors\" is not a regular file");
}

TEST_F(CheckpointTest, TensorOfTheIndexThatNoFileHoldsIsRefused) {
  put_sharded();
  put_file(
      at(kIndex),
      index_text({{"a", "1.safetensors"}, {"b", "1.safetensors"}, {"c", "2.safetensors"}, {"d", "2.safetensors"}}));

  expect_refusal("places tensor \"d\" in \"2.safetensors\", which does not hold it");
}

TEST_F(CheckpointTest, TensorInAnotherFileThanTheIndexSaysIsRefused) {
  put_sharded();
  put_file(at(kIndex), index_text({{"a", "2.safetensors"}, {"b", "1.safetensors"}, {"c", "2.safetensors"}}));

  expect_refusal("places tensor \"a\" in \"2.safetensors\", which does not hold it");
}

TEST_F(CheckpointTest, TensorThatTheIndexLeavesOutIsRefused) {
  put_sharded();
  put_file(at(kIndex), index_text({{"b", "1.safetensors"}, {"c", "2.safetensors"}}));

  expect_refusal("leaves out tensor \"a\" of \"1.safetensors\"");
}

TEST_F(CheckpointTest, TensorInTwoFilesIsRefused) {
  put_safetensors(at("1.safetensors"), {f32_tensor("x", {1}, {3})});
  put_safetensors(at("2.safetensors"), {f32_tensor("x", {1}, {3})});

  expect_refusal("tensor \"x\" is in two files, \"1.safetensors\" and \"2.safetensors\"");
}

TEST_F(CheckpointTest, DanglingLinkIsRefused) {
  std::filesystem::create_symlink("../../blobs/gone", at("model.safetensors"));

  expect_refusal("model.safetensors\" is a symbolic link to nothing");
}

TEST_F(CheckpointTest, DanglingSideFileIsRefused) {
  put_safetensors(at("model.safetensors"), {});
  std::filesystem::create_symlink("gone", at("tokenizer.json"));

  expect_refusal("tokenizer.json\" is a symbolic link to nothing");
}

TEST_F(CheckpointTest, LinkLoopIsRefused) {
  std::filesystem::create_symlink("model.safetensors", at("model.safetensors"));

  expect_refusal("model.safetensors\"", "symbolic links form a loop", ErrorCode::kIo);
}

}  // namespace
}  // namespace halfquad
