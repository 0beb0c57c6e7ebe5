#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/torch_opcodes.h"
#include "io/torch_pickle.h"
#include "tests/support/expect_error.h"
#include "tests/unit/io/torch_bytes.h"

namespace halfquad {
namespace {

using test::dict;
using test::global;
using test::little;
using test::number;
using test::raw;
using test::storage;
using test::tensor;
using test::text;
using test::tuple;

using Shape = std::vector<std::int64_t>;

void expect_refused(const std::string& pickle, std::initializer_list<std::string_view> parts) {
  test::expect_error(ErrorCode::kBadInput, parts, [&] { static_cast<void>(parse_torch_pickle(pickle, "m.bin")); });
  test::expect_error(ErrorCode::kBadInput, {"\"m.bin\""},
                     [&] { static_cast<void>(parse_torch_pickle(pickle, "m.bin")); });
}

std::string named(const std::string& value) { return dict({text("w"), value}); }

TEST(TorchPickle, ReadsTensorsAndWhereTheyLie) {
  const auto tensors = parse_torch_pickle(
      dict({text("a"), tensor(), text("b"),
            tensor({.storage = storage("BFloat16Storage", "7", 20),
                    .offset = 5,
                    .shape = {3, 1, 4},
                    .strides = {4, 99, 1}}),
            text("scalar"), tensor({.storage = storage("LongStorage", "1", 1), .shape = {}, .strides = {}})}),
      "m.bin");

  ASSERT_EQ(tensors.size(), 3U);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].dtype, DType::kF32);
  EXPECT_EQ(tensors[0].shape, (Shape{2, 3}));
  EXPECT_EQ(tensors[0].storage, "0");
  EXPECT_EQ(tensors[0].elements, 6U);
  EXPECT_EQ(tensors[1].dtype, DType::kBF16);
  EXPECT_EQ(tensors[1].shape, (Shape{3, 1, 4}));
  EXPECT_EQ(tensors[1].storage, "7");
  EXPECT_EQ(tensors[1].first_element, 5U);
  EXPECT_EQ(tensors[1].storage_elements, 20U);
  EXPECT_EQ(tensors[2].dtype, DType::kI64);
  EXPECT_EQ(tensors[2].elements, 1U);
}

TEST(TorchPickle, KnowsEveryStorageType) {
  const std::vector<std::pair<std::string, DType>> types = {
      {"FloatStorage", DType::kF32},  {"HalfStorage", DType::kF16},        {"BFloat16Storage", DType::kBF16},
      {"DoubleStorage", DType::kF64}, {"LongStorage", DType::kI64},        {"IntStorage", DType::kI32},
      {"ShortStorage", DType::kI16},  {"CharStorage", DType::kI8},         {"ByteStorage", DType::kU8},
      {"BoolStorage", DType::kBool},  {"ComplexFloatStorage", DType::kC64}};
  for (const auto& [name, dtype] : types) {
    EXPECT_EQ(parse_torch_pickle(named(tensor({.storage = storage(name, "0", 6)})), "m").at(0).dtype, dtype) << name;
  }
}

TEST(TorchPickle, UnderstandsTheInstructionsOfEveryProtocol) {
  // Remembered and recalled, appended, framed, with the shorter forms of numbers and texts.
  const std::string four = raw("\x80\x04\x95") + little(1, 8) + "}\x94(" + "\x8c\x01w" + "\x94" +
                           "\x8c\x0ctorch._utils" + "\x8c\x12_rebuild_tensor_v2" + "\x93" + "(" +
                           tuple({text("storage"), global("torch", "FloatStorage"), text("0"), text("cpu"), "K\x06"}) +
                           "Q" + "K\0"[0] + std::string(1, '\0') + "K\x02M\x03" + std::string(1, '\0') + "\x86" + "J" +
                           little(3, 4) + "K\x01\x86" + "\x89" + "Ntr\x09" + std::string(3, '\0') + "Ru.";
  const auto tensors = parse_torch_pickle(four, "m");
  ASSERT_EQ(tensors.size(), 1U);
  EXPECT_EQ(tensors[0].shape, (Shape{2, 3}));

  const std::string recalled = raw("\x80\x02}(") + text("a") + tensor() + "q\x05" + text("b") + "h\x05" + text("c") +
                               "h\x05" + "r" + little(70000, 4) + text("d") + "j" + little(70000, 4) + "u.";
  EXPECT_EQ(parse_torch_pickle(recalled, "m").size(), 4U);

  const std::string item_by_item = raw("\x80\x02}") + text("a") + tensor() + "s" + text("b") + tensor() + "s.";
  EXPECT_EQ(parse_torch_pickle(item_by_item, "m").size(), 2U);
}

TEST(TorchPickle, PassesOverAttributesListsAndParameters) {
  const std::string ordered = global("collections", "OrderedDict");
  const std::string attributes = raw("}") + text("_metadata") + "](NG" + little(0, 8) + "\x88" + "eK\x01" + "a" + "s";
  const std::string parameter =
      global("torch._utils", "_rebuild_parameter") + tuple({tensor(), "\x88", ordered + ")R"}) + "R";
  const auto tensors =
      parse_torch_pickle(raw("\x80\x02") + ordered + ")R(" + text("w") + parameter + "u" + attributes + "b.", "m");
  ASSERT_EQ(tensors.size(), 1U);
  EXPECT_EQ(tensors[0].name, "w");
}

TEST(TorchPickle, NegativeNumbersAreNegative) {
  EXPECT_EQ(parse_torch_pickle(named(tensor()), "m").size(), 1U);
  expect_refused(named(tensor({.shape = {~std::uint64_t{0}, 3}})), {"\"w\"", "shape is negative"});
  const std::string minus_one = raw("J") + little(0xFFFFFFFF, 4), minus_two = "\x8a\x01\xfe";
  for (const std::string& offset : {minus_one, minus_two}) {
    expect_refused(named(global("torch._utils", "_rebuild_tensor_v2") +
                         tuple({storage("FloatStorage", "0", 6), offset, tuple({2, 3}), tuple({3, 1})}) + "R"),
                   {"\"w\"", "offset is negative"});
  }
}

TEST(TorchPickle, OtherInstructionsAreRefusedByName) {
  for (const auto& [code, name] : std::vector<std::pair<std::string, std::string>>{{"\x81", "NEWOBJ"},
                                                                                   {"i", "INST"},
                                                                                   {"o", "OBJ"},
                                                                                   {"0", "POP"},
                                                                                   {"2", "DUP"},
                                                                                   {"P", "PERSID"},
                                                                                   {"\x82", "EXT1"},
                                                                                   {"B", "BINBYTES"},
                                                                                   {"\x8f", "EMPTY_SET"},
                                                                                   {"\x98", "READONLY_BUFFER"},
                                                                                   {"U", "SHORT_BINSTRING"}}) {
    expect_refused(raw("\x80\x02") + code, {raw("instruction ") + name + " ", "byte 2"});
  }
  expect_refused("\x80\x02\xff", {"0xff"});
}

TEST(TorchPickle, OtherGlobalsAreRefusedByName) {
  expect_refused(raw("\x80\x02") + global("os", "system"), {"os.system", "byte 2"});
  expect_refused(raw("\x80\x02") + global("torch", "UntypedStorage"), {"torch.UntypedStorage"});
  expect_refused(raw("\x80\x02") + global("torch._utils", "_rebuild_tensor"), {"torch._utils._rebuild_tensor"});
  expect_refused(raw("\x80\x02") + global("argparse", "Namespace"), {"argparse.Namespace"});
  expect_refused(raw("\x80\x04") + text("builtins") + text("eval") + "\x93", {"builtins.eval"});
}

TEST(TorchPickle, CallsThatMakeNoTensorAreRefused) {
  const std::string ordered = global("collections", "OrderedDict");
  expect_refused(named(ordered + tuple({"]"}) + "R"), {"makes no tensor"});
  expect_refused(named(global("torch", "FloatStorage") + ")R"), {"makes no tensor"});
  expect_refused(named("})R"), {"makes no tensor"});
  expect_refused(named(global("torch._utils", "_rebuild_tensor_v2") + ")R"), {"makes no tensor"});
  expect_refused(named(global("torch._utils", "_rebuild_parameter") + "N\x85R"), {"needs a tensor"});
  expect_refused(named(ordered + "NR"), {"needs arguments"});
}

TEST(TorchPickle, StoragesOfAnotherKindAreRefused) {
  const std::string type = global("torch", "FloatStorage");
  const auto persistent = [&](const std::vector<std::string>& parts) { return named(tuple(parts) + "Q"); };
  expect_refused(named("NQ"), {"storage's tuple"});
  expect_refused(persistent({text("storage"), type, text("0"), text("cpu")}), {"not a storage"});
  expect_refused(persistent({text("module"), type, text("0"), text("cpu"), number(6)}), {"not a storage"});
  expect_refused(persistent({text("storage"), "N", text("0"), text("cpu"), number(6)}), {"storage's type"});
  expect_refused(persistent({text("storage"), type, "N", text("cpu"), number(6)}), {"storage's key"});
  expect_refused(persistent({text("storage"), type, text(std::string(257, 'k')), text("cpu"), number(6)}),
                 {"key", "sensible"});
  expect_refused(persistent({text("storage"), type, text("0"), text("cpu"), "N"}), {"storage's size"});
  expect_refused(persistent({text("storage"), type, text("0"), text("cpu"), number(~std::uint64_t{0})}),
                 {"negative size"});
}

TEST(TorchPickle, TensorsThatDoNotFitTheirStorageAreRefusedByName) {
  expect_refused(named(tensor({.strides = {1, 2}})), {"\"w\"", "not contiguous"});
  expect_refused(named(tensor({.strides = {0, 1}})), {"\"w\"", "not contiguous"});
  expect_refused(named(tensor({.strides = {1}})), {"\"w\"", "different lengths"});
  expect_refused(named(tensor({.offset = 1})), {"\"w\"", "leaves its storage"});
  expect_refused(named(tensor({.offset = 7, .shape = {0, 3}})), {"\"w\"", "leaves its storage"});
  expect_refused(named(tensor({.shape = {1U << 31U, 1U << 31U, 4}, .strides = {1, 1, 1}})), {"\"w\"", "63 bits"});
  expect_refused(named(tensor({.shape = std::vector<std::uint64_t>(65, 1)})), {"dimensions"});
  EXPECT_EQ(parse_torch_pickle(named(tensor({.shape = {0, 3}, .strides = {1, 9}})), "m").at(0).elements, 0U);
}

TEST(TorchPickle, AnythingButADictOfTensorsIsRefused) {
  expect_refused("\x80\x02N.", {"no state dict"});
  expect_refused(raw("\x80\x02") + tensor() + ".", {"no state dict"});
  expect_refused(named("K\x01"), {"\"w\"", "not a tensor"});
  expect_refused(named("}"), {"\"w\"", "not a tensor"});
  expect_refused(dict({"K\x01", tensor()}), {"no name"});
  expect_refused(dict({text(""), tensor()}), {"no name"});
  expect_refused(dict({text("\xff"), tensor()}), {"no name"});
  expect_refused(dict({text(std::string("a\0b", 3)), tensor()}), {"no name"});
  expect_refused(dict({text("w"), tensor(), text("w"), tensor()}), {"\"w\"", "two"});
}

TEST(TorchPickle, BrokenStacksAreRefused) {
  expect_refused("\x80\x02t", {"mark", "byte 2"});
  expect_refused("\x80\x02\x86", {"empty stack"});
  expect_refused("\x80\x02N(\x85", {"empty stack"});
  expect_refused("\x80\x02N(Ns", {"empty stack"});
  expect_refused("\x80\x02NNs", {"needs a dict"});
  expect_refused("\x80\x02NNNs", {"needs a dict"});
  expect_refused("\x80\x02NNa", {"needs a list"});
  expect_refused("\x80\x02}(Nu", {"no value"});
  expect_refused("\x80\x02NNb", {"needs a dict"});
  expect_refused("\x80\x02h\x03", {"remembered value 3"});
  expect_refused("\x80\x02NN.", {"not one value"});
  expect_refused("\x80\x02.", {"not one value"});
  expect_refused("\x80\x02}(.", {"not one value"});
  expect_refused("\x80\x02}.x", {"behind its end"});
  expect_refused(std::string("\x80\x02") + "NN\x93", {"needs a name"});
}

TEST(TorchPickle, TextThatIsCutShortIsRefused) {
  const std::string whole = named(tensor());
  for (std::size_t length = 0; length < whole.size(); ++length) {
    test::expect_error(ErrorCode::kBadInput, {"m.bin"},
                       [&] { static_cast<void>(parse_torch_pickle(whole.substr(0, length), "m.bin")); });
  }
  expect_refused("", {"cut short", "byte 0"});
  expect_refused(raw("\x80\x02X") + little(100, 4) + "abc", {"cut short", "byte 2"});
  expect_refused(
      "\x80\x02"
      "ctorch",
      {"cut short"});
  expect_refused("\x80\x06N.", {"protocol"});
  expect_refused(raw("\x80\x02\x8a\x09") + std::string(9, '\1'), {"64 bits"});
}

TEST(OpcodeName, IsThatOfPickletools) {
  EXPECT_EQ(opcode_name('('), "MARK");
  EXPECT_EQ(opcode_name('C'), "SHORT_BINBYTES");
  EXPECT_EQ(opcode_name(0x80), "PROTO");
  EXPECT_EQ(opcode_name(0x8C), "SHORT_BINUNICODE");
  EXPECT_EQ(opcode_name(0x98), "READONLY_BUFFER");
  EXPECT_EQ(opcode_name(0x99), "0x99");
  EXPECT_EQ(opcode_name(' '), "0x20");
}

}  // namespace
}  // namespace halfquad
