#include "io/torch_pickle.h"

#include <array>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "io/torch_opcodes.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

using Index = std::uint32_t;  // of a value

// More than any tensor needs: what a few bytes may name again and again has to stay short.
constexpr std::size_t kMaxDimensions = 64;
constexpr std::size_t kMaxKeyBytes = 256;
constexpr std::size_t kMaxValues = std::size_t{1} << 24U;
constexpr int kHighestProtocol = 5;

enum class Kind : std::uint8_t {
  kNone,
  kNumber,  ///< Also true and false.
  kFloat,
  kText,
  kTuple,
  kList,
  kDict,
  kOrderedDictType,
  kRebuildTensor,
  kRebuildParameter,
  kStorageType,
  kStorage,
  kTensor,
};

struct Value {
  Kind kind = Kind::kNone;
  DType dtype = DType::kF32;   ///< kStorageType, kStorage.
  std::int64_t number = 0;     ///< kNumber; kStorage: elements; kTensor: its place in the machine's tensors.
  std::string_view text{};     ///< kText; kStorage: key. In the pickle.
  std::vector<Index> items{};  ///< kTuple, kList; kDict: key, value, key, value, ...
};

/// A tensor as it was put together, before anything is known but its own words.
struct RawTensor {
  Index storage = 0;
  std::int64_t offset = 0;
  std::vector<std::int64_t> shape, strides;
};

std::optional<Value> global_of(std::string_view module, std::string_view name) {
  struct StorageType {
    std::string_view name;
    DType dtype;
  };
  constexpr std::array<StorageType, 11> kStorages = {{{"FloatStorage", DType::kF32},
                                                      {"HalfStorage", DType::kF16},
                                                      {"BFloat16Storage", DType::kBF16},
                                                      {"DoubleStorage", DType::kF64},
                                                      {"LongStorage", DType::kI64},
                                                      {"IntStorage", DType::kI32},
                                                      {"ShortStorage", DType::kI16},
                                                      {"CharStorage", DType::kI8},
                                                      {"ByteStorage", DType::kU8},
                                                      {"BoolStorage", DType::kBool},
                                                      {"ComplexFloatStorage", DType::kC64}}};
  if (module == "collections" && name == "OrderedDict") return Value{.kind = Kind::kOrderedDictType};
  if (module == "torch._utils" && name == "_rebuild_tensor_v2") return Value{.kind = Kind::kRebuildTensor};
  if (module == "torch._utils" && name == "_rebuild_parameter") return Value{.kind = Kind::kRebuildParameter};
  if (module != "torch") return std::nullopt;
  for (const StorageType& storage : kStorages) {
    if (storage.name == name) return Value{.kind = Kind::kStorageType, .dtype = storage.dtype};
  }
  return std::nullopt;
}

/// Runs the instructions. Values live in one list and are named by their place in it, so that one may be on the stack,
/// in the memo and in others at once.
class Machine {
 public:
  Machine(std::string_view pickle, std::string_view file) : pickle_(pickle), file_(file) {}

  /// The value at the end.
  const Value& run() {
    while (!stopped_) step();
    if (at_ != pickle_.size()) refuse("there are bytes behind its end");
    if (stack_.size() != 1 || !marks_.empty()) refuse("it ends with a stack that is not one value");
    return values_[stack_[0]];
  }
  [[nodiscard]] const Value& value(Index index) const { return values_[index]; }
  [[nodiscard]] const RawTensor& tensor(const Value& value) const {
    return tensors_[static_cast<std::size_t>(value.number)];
  }

 private:
  [[noreturn]] void refuse(std::string_view why) const {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: the pickle cannot be read at byte {}: {}", quoted(file_), op_at_, why));
  }

  // Reading.
  std::string_view take(std::uint64_t bytes) {
    if (bytes > pickle_.size() - at_) refuse("it is cut short");
    at_ += bytes;
    return pickle_.substr(at_ - bytes, bytes);
  }
  std::uint64_t take_number(int bytes) {
    const std::string_view text = take(static_cast<std::uint64_t>(bytes));
    std::uint64_t number = 0;
    for (int i = bytes; i-- > 0;) number = number << 8U | static_cast<unsigned char>(text[static_cast<std::size_t>(i)]);
    return number;
  }
  /// Two's complement of that many bytes.
  std::int64_t take_signed(int bytes) {
    const std::uint64_t number = take_number(bytes);
    if (bytes == 0 || bytes == 8) return static_cast<std::int64_t>(number);
    const std::uint64_t sign = std::uint64_t{1} << static_cast<unsigned>(8 * bytes - 1);
    return static_cast<std::int64_t>((number ^ sign) - sign);
  }
  std::string_view take_line() {
    const std::size_t end = pickle_.find('\n', at_);
    if (end == pickle_.npos) refuse("it is cut short");
    const std::string_view line = take(end - at_);
    ++at_;
    return line;
  }

  // The stack.
  void push_index(Index index) {
    if (stack_.size() >= kMaxValues) refuse("it holds more than is sensible");
    stack_.push_back(index);
  }
  void push(Value value) {
    if (values_.size() >= kMaxValues) refuse("it holds more than is sensible");
    values_.push_back(std::move(value));
    push_index(static_cast<Index>(values_.size() - 1));
  }
  void push_number(std::int64_t number) { push({.kind = Kind::kNumber, .number = number}); }
  Index pop() {
    const std::size_t floor = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() <= floor) refuse("it takes from an empty stack");
    const Index index = stack_.back();
    stack_.pop_back();
    return index;
  }
  std::vector<Index> pop_to_mark() {
    if (marks_.empty()) refuse("it takes up to a mark that is not there");
    const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Index> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    marks_.pop_back();
    return items;
  }
  std::vector<Index> pop_some(std::size_t count) {
    std::vector<Index> items(count);
    while (count-- > 0) items[count] = pop();
    return items;
  }
  Value& top(Kind kind, std::string_view what) {
    const std::size_t floor = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() <= floor || values_[stack_.back()].kind != kind) refuse(fmt::format("it needs {} there", what));
    return values_[stack_.back()];
  }
  const Value& expect(Index index, Kind kind, std::string_view what) const {
    if (values_[index].kind != kind) refuse(fmt::format("it needs {} there", what));
    return values_[index];
  }

  // Instructions.
  void step() {
    op_at_ = at_;
    const auto code = static_cast<unsigned char>(take_number(1));
    if (!run_scalar(code) && !run_container(code) && !run_object(code)) {
      refuse(fmt::format("the instruction {} is not one that tensors need", opcode_name(code)));
    }
  }

  bool run_scalar(unsigned char code) {
    switch (code) {
      case 0x80:
        if (take_number(1) > kHighestProtocol) refuse("its protocol is not known");
        return true;
      case 0x95:  // FRAME: how many bytes follow, for readers of streams
        take(8);
        return true;
      case 'N':
        push({});
        return true;
      case 0x88:
      case 0x89:
        push_number(code == 0x88 ? 1 : 0);
        return true;
      case 'K':
        push_number(static_cast<std::int64_t>(take_number(1)));
        return true;
      case 'M':
        push_number(static_cast<std::int64_t>(take_number(2)));
        return true;
      case 'J':
        push_number(take_signed(4));
        return true;
      case 0x8A: {
        const std::uint64_t bytes = take_number(1);
        if (bytes > 8) refuse("a number takes more than 64 bits");
        push_number(take_signed(static_cast<int>(bytes)));
        return true;
      }
      case 'G':
        take(8);
        push({.kind = Kind::kFloat});
        return true;
      case 'X':
      case 0x8C:
        push({.kind = Kind::kText, .text = take(take_number(code == 'X' ? 4 : 1))});
        return true;
      default:
        return false;
    }
  }

  bool run_container(unsigned char code) {
    switch (code) {
      case '(':
        if (marks_.size() >= kMaxValues) refuse("it holds more than is sensible");
        marks_.push_back(stack_.size());
        return true;
      case ')':
        push({.kind = Kind::kTuple});
        return true;
      case ']':
        push({.kind = Kind::kList});
        return true;
      case '}':
        push({.kind = Kind::kDict});
        return true;
      case 't':
        push({.kind = Kind::kTuple, .items = pop_to_mark()});
        return true;
      case 0x85:
      case 0x86:
      case 0x87:
        push({.kind = Kind::kTuple, .items = pop_some(code - 0x84U)});
        return true;
      case 'a':
        append(pop_some(1), Kind::kList);
        return true;
      case 'e':
        append(pop_to_mark(), Kind::kList);
        return true;
      case 's':
        append(pop_some(2), Kind::kDict);
        return true;
      case 'u':
        append(pop_to_mark(), Kind::kDict);
        return true;
      default:
        return false;
    }
  }

  void append(const std::vector<Index>& items, Kind kind) {
    if (kind == Kind::kDict && items.size() % 2 != 0) refuse("a key has no value");
    std::vector<Index>& into = top(kind, kind == Kind::kDict ? "a dict" : "a list").items;
    into.insert(into.end(), items.begin(), items.end());
  }

  bool run_object(unsigned char code) {
    switch (code) {
      case 'q':
        put(take_number(1));
        return true;
      case 'r':
        put(take_number(4));
        return true;
      case 0x94:
        put(memo_.size());
        return true;
      case 'h':
        get(take_number(1));
        return true;
      case 'j':
        get(take_number(4));
        return true;
      case 'c': {
        const std::string_view module = take_line();
        push_global(module, take_line());
        return true;
      }
      case 0x93: {
        const Index name = pop(), module = pop();
        push_global(expect(module, Kind::kText, "a name").text, expect(name, Kind::kText, "a name").text);
        return true;
      }
      case 'Q':
        load_storage();
        return true;
      case 'R':
        call();
        return true;
      case 'b':  // The attributes of a state dict, such as its _metadata: nothing of the tensors.
        pop();
        top(Kind::kDict, "a dict");
        return true;
      case '.':
        stopped_ = true;
        return true;
      default:
        return false;
    }
  }

  void put(std::uint64_t slot) {
    const Index index = pop();
    memo_[slot] = index;
    push_index(index);
  }
  void get(std::uint64_t slot) {
    const auto found = memo_.find(slot);
    if (found == memo_.end()) refuse(fmt::format("it asks for the remembered value {}, which is not there", slot));
    push_index(found->second);
  }
  void push_global(std::string_view module, std::string_view name) {
    std::optional<Value> global = global_of(module, name);
    if (!global) {
      refuse(fmt::format("the global {} is not one that tensors need", quoted(fmt::format("{}.{}", module, name))));
    }
    push(*std::move(global));
  }

  /// ("storage", type, key, device, elements)
  void load_storage() {
    const std::vector<Index>& parts = expect(pop(), Kind::kTuple, "a storage's tuple").items;
    if (parts.size() != 5 || expect(parts[0], Kind::kText, "the word storage").text != "storage") {
      refuse("the persistent value is not a storage");
    }
    const Value& type = expect(parts[1], Kind::kStorageType, "a storage's type");
    const Value& key = expect(parts[2], Kind::kText, "a storage's key");
    const Value& elements = expect(parts[4], Kind::kNumber, "a storage's size");
    if (elements.number < 0) refuse("a storage has a negative size");
    if (key.text.size() > kMaxKeyBytes) refuse("a storage's key is longer than is sensible");
    push({.kind = Kind::kStorage, .dtype = type.dtype, .number = elements.number, .text = key.text});
  }

  void call() {
    const std::vector<Index>& arguments = expect(pop(), Kind::kTuple, "arguments").items;
    const Kind callee = values_[pop()].kind;
    if (callee == Kind::kOrderedDictType && arguments.empty()) {
      push({.kind = Kind::kDict});
    } else if (callee == Kind::kRebuildParameter && !arguments.empty()) {
      expect(arguments[0], Kind::kTensor, "a tensor");
      push_index(arguments[0]);
    } else if (callee == Kind::kRebuildTensor && arguments.size() >= 4) {
      RawTensor tensor;
      expect(arguments[0], Kind::kStorage, "a storage");
      tensor.storage = arguments[0];
      tensor.offset = expect(arguments[1], Kind::kNumber, "an offset").number;
      tensor.shape = numbers(arguments[2]);
      tensor.strides = numbers(arguments[3]);
      tensors_.push_back(std::move(tensor));
      push({.kind = Kind::kTensor, .number = static_cast<std::int64_t>(tensors_.size() - 1)});
    } else {
      refuse("it calls something in a way that makes no tensor");
    }
  }
  [[nodiscard]] std::vector<std::int64_t> numbers(Index tuple) const {
    const std::vector<Index>& items = expect(tuple, Kind::kTuple, "a tuple").items;
    if (items.size() > kMaxDimensions) refuse("a tensor has more dimensions than is sensible");
    std::vector<std::int64_t> out;
    for (const Index item : items) {
      out.push_back(expect(item, Kind::kNumber, "a number").number);
    }
    return out;
  }

  std::string_view pickle_;
  std::string_view file_;
  std::size_t at_ = 0;
  std::size_t op_at_ = 0;  ///< Of the instruction being run.
  bool stopped_ = false;
  std::vector<Value> values_;
  std::vector<RawTensor> tensors_;
  std::vector<Index> stack_;
  std::vector<std::size_t> marks_;  ///< Heights of the stack.
  std::unordered_map<std::uint64_t, Index> memo_;
};

/// Row-major without gaps; the strides of single elements say nothing.
bool is_contiguous(const RawTensor& tensor) {
  std::int64_t wanted = 1;
  for (std::size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != wanted) return false;
    wanted *= tensor.shape[i];
  }
  return true;
}

/// What is wrong with a tensor, "" if nothing is.
std::string_view defect_of(const RawTensor& tensor, const Value& storage) {
  if (tensor.shape.size() != tensor.strides.size()) return "its shape and strides have different lengths";
  std::optional<std::int64_t> elements = 1;
  for (const std::int64_t extent : tensor.shape) {
    if (extent < 0) return "its shape is negative";
    if (elements) elements = checked_mul(*elements, extent);
  }
  if (!elements) return "its size does not fit 63 bits";
  if (tensor.offset < 0) return "its offset is negative";
  if (tensor.offset > storage.number || *elements > storage.number - tensor.offset) return "it leaves its storage";
  if (*elements != 0 && !is_contiguous(tensor)) return "it is not contiguous; save a contiguous copy";
  return {};
}

}  // namespace

std::vector<PickledTensor> parse_torch_pickle(std::string_view pickle, std::string_view file) {
  Machine machine(pickle, file);
  const Value& root = machine.run();
  const auto refuse = [&](std::string_view name, std::string_view why) {
    throw Error(ErrorCode::kBadInput, fmt::format("{}: {}: {}", quoted(file), quoted(name), why));
  };
  HALFQUAD_REQUIRE(root.kind == Kind::kDict, kBadInput,
                   quoted(file) + ": it holds no state dict (a dict of tensors by their names)");
  std::vector<PickledTensor> tensors;
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < root.items.size(); i += 2) {
    const Value& key = machine.value(root.items[i]);
    const Value& value = machine.value(root.items[i + 1]);
    HALFQUAD_REQUIRE(
        key.kind == Kind::kText && !key.text.empty() && is_utf8(key.text) && key.text.find('\0') == key.text.npos,
        kBadInput, quoted(file) + ": a key of the state dict is no name");
    if (value.kind != Kind::kTensor) refuse(key.text, "it is not a tensor; save the model's state dict alone");
    if (!names.insert(key.text).second) refuse(key.text, "there are two of this name");
    const RawTensor& raw = machine.tensor(value);
    const Value& storage = machine.value(raw.storage);
    if (const std::string_view defect = defect_of(raw, storage); !defect.empty()) refuse(key.text, defect);
    std::uint64_t elements = 1;
    for (const std::int64_t extent : raw.shape) elements *= static_cast<std::uint64_t>(extent);
    tensors.push_back({std::string(key.text), storage.dtype, raw.shape, std::string(storage.text),
                       static_cast<std::uint64_t>(raw.offset), elements, static_cast<std::uint64_t>(storage.number)});
  }
  return tensors;
}

}  // namespace halfquad
