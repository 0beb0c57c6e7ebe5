#include "tests/unit/sharding/transfer_fixture.h"

#include <array>
#include <chrono>
#include <span>
#include <thread>

#include <fmt/format.h>

#include "sharding/job_tags.h"

namespace halfquad::test {

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return true;
}

const RunnerModel& model() {
  static const RunnerModel kModel(
      {},
      [] {
        std::vector<TestTensor> tensors;
        for (std::int64_t i = 1; i <= 16; ++i) {
          tensors.push_back(random_tensor(fmt::format("tensor{:02}", i), DType::kU8, {1'000 * i}));
        }
        return tensors;
      }(),
      DType::kF16, 100'000);
  return kModel;
}

std::size_t entries() { return model().layout().entries().size(); }

std::string bytes_of_entry(std::size_t entry) {
  return model().source().at(model().layout().contents()[entry].source).bytes;
}

void write_entry(ItemSender& sender, std::size_t entry) {
  const std::string data = bytes_of_entry(entry);
  const auto bytes = std::as_bytes(std::span(data));
  sender.write(kReceiver,
               std::array{OutputPiece{entry, 700, bytes.subspan(700)}, OutputPiece{entry, 300, bytes.subspan(300, 400)},
                          OutputPiece{entry, 0, bytes.first(300)}});
}

ItemRecord record_of(std::size_t entry) {
  ItemRecord record;
  record.item = entry;
  record.blocks = {{static_cast<std::uint32_t>(entry), 0, entry}};
  return record;
}

Receiver::Receiver(std::uint64_t budget_bytes, int threads, FileSystem* fs, DeviceSet* devices)
    : fs_(fs != nullptr ? *fs : model().files()),
      files_(fs_, temp_.path(), model().layout(), WriteMode::kBuffered),
      journal_(model().files(), temp_.path() / "journal"),
      keeper_(
          files_, journal_, std::chrono::milliseconds(1),
          [this](const std::vector<ItemRecord>& records) { kept += records.size(); }, [](std::exception_ptr) {}),
      receiver(files_, keeper_, outbox, {.budget_bytes = budget_bytes, .threads = threads, .devices = devices},
               [this](std::exception_ptr error) {
                 first_error = std::move(error);
                 ++errors;
               }) {}

void Receiver::take(Message message) {
  const auto tag = static_cast<Tag>(message.tag);
  const WireReader in(message.data);
  if (tag == Tag::kOffer) receiver.offered(message.rank, in);
  if (tag == Tag::kKeep) receiver.keep(message.rank, in);
  if (tag == Tag::kLinkAsk) receiver.link_asked(message.rank, in);
  if (tag == Tag::kLinkItem) receiver.announced(message.rank, in);
  if (tag == Tag::kLinkEnd) receiver.link_ended(message.rank);
  if (tag == Tag::kItem) receiver.arrived(std::move(message));
}

void Receiver::offer(int rank, std::uint64_t ticket, std::uint64_t bytes) {
  WireWriter out;
  out.put(ticket);
  out.put(bytes);
  const std::vector<std::byte> message = out.take();
  receiver.offered(rank, WireReader(message));
}

void Receiver::send(int rank, std::uint64_t ticket, std::size_t entry) {
  const std::string data = bytes_of_entry(entry);
  WireWriter out;
  out.put(ticket);
  out.put(std::uint64_t{1});
  out.put(static_cast<std::uint64_t>(entry));
  out.put(std::uint64_t{0});
  out.put(std::as_bytes(std::span(data)));
  receiver.arrived(message_to(rank, Tag::kItem, out));
}

std::vector<std::pair<int, std::uint64_t>> Receiver::grants() {
  std::vector<std::pair<int, std::uint64_t>> granted;
  for (const Message& message : outbox.take()) {
    if (static_cast<Tag>(message.tag) == Tag::kGrant) {
      granted.emplace_back(message.rank, WireReader(message.data).get<std::uint64_t>());
    }
  }
  return granted;
}

bool Receiver::holds(std::size_t entry) const {
  const OutputLayout& layout = model().layout();
  return get_file(temp_.path() / layout.file_of(entry).name)
             .substr(layout.file_offset(entry), layout.entries()[entry].bytes()) == bytes_of_entry(entry);
}

}  // namespace halfquad::test
