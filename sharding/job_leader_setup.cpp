#include <algorithm>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "io/output_directory.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/job_leader.h"

namespace halfquad {

// Does `work` on another thread, so that the others hear from this one all the while.
template <class Work>
std::invoke_result_t<Work&> JobLeader::meanwhile(Work work, const std::function<void()>& each_turn) {
  auto result = std::async(std::launch::async, std::move(work));
  try {
    wait_until([&] {
      each_turn();
      return result.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    });
  } catch (...) {
    checks_stop_.request();
    throw;
  }
  return result.get();
}

std::vector<std::size_t> JobLeader::find_nonfinite(const RankScan& scan, ProgressCounters& shown) {
  greet(scan.fingerprint);
  ProgressCounters own;
  const auto show = [&] {
    std::uint64_t read = own.bytes_read, done = own.source_bytes_done;
    for (const Peer& peer : peers_) {
      read += peer.bytes_read;
      done += peer.source_bytes;
    }
    shown.bytes_read = read;
    shown.source_bytes_done = done;
  };
  const std::vector<std::size_t> found = find_own_nonfinite(scan, show, own);
  nonfinite_.insert(nonfinite_.end(), found.begin(), found.end());
  wait_until([&] {
    show();
    return std::all_of(peers_.begin() + 1, peers_.end(), [](const Peer& peer) { return peer.scanned; });
  });
  // Several ranks may have found the same tensor, by different parts of it.
  std::sort(nonfinite_.begin(), nonfinite_.end());
  nonfinite_.erase(std::unique(nonfinite_.begin(), nonfinite_.end()), nonfinite_.end());
  for (Peer& peer : peers_) peer.greeted = false;  // they come again with the job that follows from this
  for (int rank = 1; rank < communicator_.size(); ++rank) {
    WireWriter out;
    write_tensors(out, nonfinite_);
    outbox_.post(message_to(rank, Tag::kNonfinite, out));
  }
  return nonfinite_;
}

std::vector<std::size_t> JobLeader::find_own_nonfinite(const RankScan& scan, const std::function<void()>& show,
                                                       ProgressCounters& own) {
  const NonfiniteScan::Part part{kSelf, communicator_.size()};
  try {
    return meanwhile([&] { return scan.scan.find(scan.fs, part, scan.threads, scan.read_mode, own, checks_stop_); },
                     show);
  } catch (...) {
    note_failure(kSelf, as_error(std::current_exception()));
    throw *first_error_;
  }
}

std::unique_ptr<WeightFiles> JobLeader::set_up(const RankJob& job, bool resumed, std::vector<ItemRecord>& records) {
  trace_ = job.run.trace;
  greet(job.fingerprint);
  std::unique_ptr<WeightFiles> files = meanwhile([&] { return open_output(job, resumed, records); });
  assign_roles(job);
  share_devices(job);
  return files;
}

// Waits for the others and refuses ranks that would do another job.
void JobLeader::greet(const Fingerprint& fingerprint) {
  fingerprint_ = fingerprint;
  for (Peer& peer : peers_) peer.heard = std::chrono::steady_clock::now();
  wait_for_all(&Peer::greeted);
}

std::unique_ptr<WeightFiles> JobLeader::open_output(const RankJob& job, bool resumed,
                                                    std::vector<ItemRecord>& records) {
  JobFolder folder(job.fs, job.partial);
  const std::optional<Fingerprint> earlier = resumed ? folder.fingerprint() : std::nullopt;
  if (!earlier) return create_output(job);
  const std::string different = differences(job.fingerprint, *earlier);
  HALFQUAD_REQUIRE(
      different.empty(), kUsage,
      fmt::format("{} is the unfinished output of another job, which differs in {}; run that job's command "
                  "again, pass --fresh to discard what it finished, or choose another name",
                  quoted(job.partial.string()), different));
  std::unique_ptr<WeightFiles> files;
  try {
    files = std::make_unique<WeightFiles>(
        job.fs, job.partial, job.layout,
        AttachOptions{.mode = job.write_mode, .patience = std::chrono::milliseconds(0), .stop = &stop_});
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBadInput && error.code() != ErrorCode::kIo) throw;
    warn_(fmt::format("the unfinished output cannot be continued and is begun anew: {}", error.what()));
    return create_output(job);
  }
  files->write_constants();
  records = folder.records(job.plan, job.layout);
  run_number_ = folder.next_run();
  // Every run writes the same bytes: of several records of one item any will do.
  std::sort(records.begin(), records.end(), [](const ItemRecord& a, const ItemRecord& b) { return a.item < b.item; });
  const auto last = std::unique(records.begin(), records.end(),
                                [](const ItemRecord& a, const ItemRecord& b) { return a.item == b.item; });
  records.erase(last, records.end());
  return files;
}

// The description comes first and the journals of an earlier file go before it: at no time does a journal speak of a
// file that it does not belong to.
std::unique_ptr<WeightFiles> JobLeader::create_output(const RankJob& job) {
  job.fs.remove_all(job.partial / kPrivateFolder);
  auto files = std::make_unique<WeightFiles>(job.fs, job.partial, job.layout, job.write_mode);
  files->sync();
  JobFolder(job.fs, job.partial).create(job.fingerprint, job.measured);
  job.fs.sync_directory(job.partial);
  job.fs.sync_directory(job.partial.has_parent_path() ? job.partial.parent_path() : std::filesystem::path("."));
  run_number_ = 0;
  return files;
}

// Finds out who sees the output and tells the others who writes what.
void JobLeader::assign_roles(const RankJob& job) {
  peers_[kSelf].sees = true;
  if (peers_.size() > 1) {
    const std::string token = random_token();
    meanwhile([&] {
      leave_probe(job.fs, job.partial, token);
      return true;
    });
    for (std::size_t rank = 1; rank < peers_.size(); ++rank) {
      WireWriter out;
      out.put(run_number_);
      out.put(token);
      outbox_.post(message_to(static_cast<int>(rank), Tag::kSetup, out));
    }
    wait_for_all(&Peer::looked);
  }
  std::vector<bool> sees;
  for (const Peer& peer : peers_) sees.push_back(peer.sees);
  const auto blind = std::find(sees.begin(), sees.end(), false);
  HALFQUAD_REQUIRE(job.assembly != Assembly::kDirect || blind == sees.end(), kUsage,
                   fmt::format("{} does not see {}, which --assembly direct has every rank write into; choose an OUT "
                               "on a file system that all hosts share, or leave the option out",
                               name_of_rank(static_cast<int>(blind - sees.begin())), quoted(job.partial.string())));
  roles_ = assembly_roles(job.assembly, sees, job.layout.files().size());
  assembly_.writers = 0;
  for (std::size_t rank = 0; rank < roles_.size(); ++rank) {
    if (roles_[rank].writes(static_cast<int>(rank))) ++assembly_.writers;
    if (roles_[rank].sends(static_cast<int>(rank))) assembly_.gathered = true;
  }
}

void JobLeader::share_devices(const RankJob& job) {
  if (job.run.devices != nullptr) peers_[kSelf].devices = job.run.devices->seen();
  std::vector<DeviceView> views;
  for (std::size_t rank = 0; rank < peers_.size(); ++rank) views.push_back({facts_[rank].host, peers_[rank].devices});
  devices_ = assign_devices(views);
  for (std::size_t rank = 0; rank < peers_.size(); ++rank) {
    for (const std::size_t place : devices_[rank]) facts_[rank].devices.push_back(peers_[rank].devices[place].name);
  }
  if (job.run.devices != nullptr) job.run.devices->keep(devices_[kSelf]);
}

// Has every rank that sees the files compare its part of the records with them.
void JobLeader::check_records(const RankJob& job, std::vector<ItemRecord> records) {
  std::vector<std::size_t> writers;
  for (std::size_t rank = 0; rank < roles_.size(); ++rank) {
    peers_[rank].checked = !roles_[rank].writes(static_cast<int>(rank));
    if (!peers_[rank].checked) writers.push_back(rank);
  }
  std::vector<std::vector<ItemRecord>> parts(peers_.size());
  for (std::size_t i = 0; i < records.size(); ++i) {
    parts[writers[i % writers.size()]].push_back(std::move(records[i]));
  }
  for (std::size_t rank = 1; rank < peers_.size(); ++rank) {
    WireWriter out;
    roles_[rank].write(out);
    write_tensors(out, devices_[rank]);
    write_records(out, parts[rank]);
    outbox_.post(message_to(static_cast<int>(rank), Tag::kRole, out));
  }
  const std::vector<std::uint64_t> own = meanwhile([&] {
    return damaged_items(job.fs, job.partial, job.layout, parts[kSelf], job.run.threads, job.run.memory_bytes,
                         checks_stop_);
  });
  damaged_.insert(damaged_.end(), own.begin(), own.end());
  wait_for_all(&Peer::checked);
  std::sort(damaged_.begin(), damaged_.end());
  if (damaged_.empty()) return;
  warn_(
      fmt::format("{} of {} finished pieces of the unfinished output hold other bytes than were written; they are "
                  "done again",
                  damaged_.size(), records.size()));
}

// Gives every record of a tensor whose columns are weighed what one of them has. A crash can leave records without: the
// tiles are solved again.
void JobLeader::share_importance(const RankJob& job, std::vector<ItemRecord>& records) {
  std::map<std::size_t, std::shared_ptr<const std::vector<float>>> known;
  const auto tensor_of = [&](const ItemRecord& record) -> std::optional<std::size_t> {
    const WorkItem& item = job.plan.items[record.item];
    const bool weighed = item.kind == WorkItem::Kind::kTile && job.layout.quantized()[item.tensor].weighs_columns();
    return weighed ? std::optional(item.tensor) : std::nullopt;
  };
  for (const ItemRecord& record : records) {
    const std::optional<std::size_t> tensor = tensor_of(record);
    if (!tensor || !record.decision.importance) continue;
    const auto cols = static_cast<std::size_t>(job.layout.quantized()[*tensor].cols);
    if (record.decision.importance->size() == cols) known[*tensor] = record.decision.importance;
  }
  std::erase_if(records, [&](ItemRecord& record) {
    const std::optional<std::size_t> tensor = tensor_of(record);
    if (!tensor) return false;
    const auto found = known.find(*tensor);
    if (found != known.end()) record.decision.importance = found->second;
    return found == known.end();
  });
}

std::vector<std::optional<TensorDecision>> JobLeader::hand_over_decisions(const RankJob& job,
                                                                          std::span<const ItemRecord> records) {
  std::vector<std::optional<TensorDecision>> settled(job.layout.quantized().size());
  for (const ItemRecord& record : records) {
    const WorkItem& item = job.plan.items[record.item];
    if (item.kind == WorkItem::Kind::kTile) settled[item.tensor] = record.decision;
  }
  for (std::size_t rank = 1; rank < peers_.size(); ++rank) {
    WireWriter out;
    out.put(static_cast<std::uint64_t>(
        std::count_if(settled.begin(), settled.end(), [](const auto& decision) { return decision.has_value(); })));
    for (std::size_t tensor = 0; tensor < settled.size(); ++tensor) {
      if (!settled[tensor]) continue;
      out.put(static_cast<std::uint64_t>(tensor));
      settled[tensor]->write(out);
    }
    outbox_.post(message_to(static_cast<int>(rank), Tag::kGo, out));
  }
  return settled;
}

}  // namespace halfquad
