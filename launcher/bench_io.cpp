#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <future>
#include <ostream>

#include <fmt/format.h>

#include "launcher/bench.h"
#include "runtime/buffer_pool.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kRequestBytes = 8 << 20;  // what a tile of bf16 weights reads
constexpr std::uint64_t kPieceBytes = 2 << 20;    // what it writes at 4 bits
constexpr int kLeastThreads = 4;                  // requests in flight keep a disk busy, cores or not
constexpr std::uint64_t kProbeBytes = 2ULL << 30;
constexpr double kProbeSeconds = 3;

/// A file that goes away with its owner.
class TemporaryFile {
 public:
  TemporaryFile(FileSystem& fs, std::filesystem::path path) : fs_(fs), path_(std::move(path)) {}
  ~TemporaryFile() {
    try {
      fs_.remove_all(path_);
    } catch (const Error&) {  // the bench's own error, if any, is the one to show
    }
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

 private:
  FileSystem& fs_;
  std::filesystem::path path_;
};

struct Request {
  std::size_t file = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

/// Files cut into requests.
struct ReadJob {
  std::vector<std::filesystem::path> files;
  std::vector<Request> requests;
  std::uint64_t bytes = 0;

  void add_file(const std::filesystem::path& path, std::uint64_t begin, std::uint64_t end) {
    for (std::uint64_t offset = begin; offset < end; offset += kRequestBytes) {
      requests.push_back({files.size(), offset, std::min(kRequestBytes, end - offset)});
    }
    files.push_back(path);
    bytes += end - begin;
  }
};

/// Every byte of the checkpoint's weights, without the headers.
ReadJob checkpoint_job(const Checkpoint& checkpoint) {
  std::vector<std::uint64_t> begin;
  for (const SourceFile& file : checkpoint.files()) begin.push_back(file.bytes);
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    std::uint64_t& first = begin[static_cast<std::size_t>(tensor.file)];
    first = std::min(first, tensor.offset);
  }
  ReadJob job;
  for (std::size_t i = 0; i < begin.size(); ++i) {
    job.add_file(checkpoint.files()[i].path, begin[i], checkpoint.files()[i].bytes);
  }
  return job;
}

class IoBench {
 public:
  IoBench(const Context& context, int threads)
      : context_(context),
        threads_(threads),
        pool_(static_cast<std::uint64_t>(threads) * (kRequestBytes + ReadFile::kSlack) + kPieceBytes) {
    for (int i = 0; i < threads; ++i) buffers_.push_back(pool_.acquire(kRequestBytes + ReadFile::kSlack));
    piece_ = pool_.acquire(kPieceBytes);
    std::uint64_t state = 1;
    for (std::byte& byte : piece_.bytes()) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      byte = static_cast<std::byte>(state >> 56);
    }
  }

  void read(const ReadJob& job, ReadMode mode) {
    std::vector<std::unique_ptr<ReadFile>> files;
    for (const auto& path : job.files) files.push_back(context_.fs.open_read(path, mode));
    parallel_for(threads_, static_cast<std::int64_t>(job.requests.size()), context_.stop,
                 [&](int worker, std::int64_t index) {
                   const Request& request = job.requests[static_cast<std::size_t>(index)];
                   static_cast<void>(files[request.file]->read(request.offset, static_cast<std::size_t>(request.bytes),
                                                               buffers_[static_cast<std::size_t>(worker)].bytes()));
                 });
  }

  /// Until the data is on stable storage.
  void write(const std::filesystem::path& path, std::uint64_t bytes, ReadMode mode) {
    const WriteMode write_mode = mode == ReadMode::kBuffered ? WriteMode::kBuffered : WriteMode::kDirect;
    const std::unique_ptr<WriteFile> file = context_.fs.create(path, write_mode);
    file->allocate(bytes);
    const auto pieces = static_cast<std::int64_t>((bytes + kPieceBytes - 1) / kPieceBytes);
    parallel_for(threads_, pieces, context_.stop, [&](int, std::int64_t index) {
      const std::uint64_t offset = static_cast<std::uint64_t>(index) * kPieceBytes;
      const std::uint64_t length = std::min(kPieceBytes, bytes - offset);
      file->write(offset, piece_.bytes().first(static_cast<std::size_t>(length)));
      file->start_writeback(offset, length);
    });
    file->sync();
    file->close();
  }

  void read_and_write(const ReadJob& job, ReadMode mode, const std::filesystem::path& path, std::uint64_t bytes) {
    std::future<void> writing = std::async(std::launch::async, [&] { write(path, bytes, mode); });
    read(job, mode);
    writing.get();
  }

 private:
  const Context& context_;
  int threads_;
  BufferPool pool_;
  std::vector<Buffer> buffers_;
  Buffer piece_;
};

/// The measurements of one `bench io` run.
class IoSession {
 public:
  IoSession(const Context& context, const BenchOptions& options)
      : options_(options),
        threads_(std::max(kLeastThreads, options.machine.thread_count())),
        bench_(context, threads_),
        target_(context.fs, std::filesystem::path(options.dir) / "halfquad-bench.tmp"),
        data_(context.fs, std::filesystem::path(options.dir) / "halfquad-bench.data"),
        memcpy_rate_(measure_memcpy_rate(options)),
        report_(context.out, "io") {
    prepare(context);
  }

  void run() {
    const bool all = options_.mode == "all";
    if (all || options_.mode == "read") {
      for (const auto& [name, mode] : modes()) {
        measure("read", name, job_.bytes, 0, [this, by = mode] { bench_.read(job_, by); });
      }
    }
    if (all || options_.mode == "write") {
      for (const auto& [name, mode] : modes()) {
        measure("write", name, 0, write_bytes_, [this, by = mode] { bench_.write(target_.path(), write_bytes_, by); });
      }
    }
    if (all || options_.mode == "both") {
      for (const auto& [name, mode] : modes()) {
        measure("both", name, job_.bytes, write_bytes_,
                [this, by = mode] { bench_.read_and_write(job_, by, target_.path(), write_bytes_); });
      }
    }
    report_.finish();
  }

 private:
  using Modes = std::vector<std::pair<std::string, ReadMode>>;

  void prepare(const Context& context) {
    write_bytes_ = parse_size_option(options_.write_bytes.empty() ? options_.size : options_.write_bytes,
                                     options_.write_bytes.empty() ? "--size" : "--write-bytes");
    if (!options_.source.empty()) {
      job_ = checkpoint_job(Checkpoint(context.fs, options_.source));
    } else if (options_.mode != "write") {
      const std::uint64_t size = parse_size_option(options_.size, "--size");
      bench_.write(data_.path(), size, ReadMode::kAuto);
      job_.add_file(data_.path(), 0, size);
    }
  }

  [[nodiscard]] Modes modes() const {
    if (options_.machine.direct_io == "on") return {{"direct", ReadMode::kDirect}};
    if (options_.machine.direct_io == "off") return {{"buffered", ReadMode::kBuffered}};
    return {{"auto", ReadMode::kAuto}, {"direct", ReadMode::kDirect}, {"buffered", ReadMode::kBuffered}};
  }

  void measure(const std::string& what, const std::string& mode, std::uint64_t read, std::uint64_t written,
               const std::function<void()>& body) {
    // A checkpoint is too large to be read once more only to warm up; a small data file is not.
    const bool warm_up = options_.source.empty();
    double seconds = 0;
    if (warm_up) {
      seconds = median_seconds(options_.runs, [&] { return timed(body); });
    } else {
      seconds = timed(body);
    }
    const double rate = static_cast<double>(read + written) / seconds;
    report_.add({{"what", what},
                 {"reads", mode},
                 {"threads", fmt::format("{}", threads_)},
                 {"bytes_read", fmt::format("{}", read)},
                 {"bytes_written", fmt::format("{}", written)},
                 {"seconds", fmt::format("{:.3f}", seconds)},
                 {"gb_per_s", fmt::format("{:.3f}", rate / 1e9)},
                 {"fraction_of_memcpy", fmt::format("{:.3f}", rate / memcpy_rate_)}});
  }

  const BenchOptions& options_;
  int threads_;
  IoBench bench_;
  TemporaryFile target_, data_;
  double memcpy_rate_;
  BenchReport report_;
  ReadJob job_;
  std::uint64_t write_bytes_ = 0;
};

}  // namespace

double measure_read_rate(const Context& context, const Checkpoint& checkpoint, const MachineOptions& machine) {
  ReadJob job = checkpoint_job(checkpoint);
  job.requests.resize(std::min<std::size_t>(job.requests.size(), kProbeBytes / kRequestBytes));
  IoBench bench(context, std::max(kLeastThreads, machine.thread_count()));

  double seconds = 0;
  std::uint64_t bytes = 0;
  constexpr std::size_t kBatch = 16;
  for (std::size_t begin = 0; begin < job.requests.size() && seconds < kProbeSeconds; begin += kBatch) {
    ReadJob batch{job.files, {}, 0};
    const std::size_t end = std::min(begin + kBatch, job.requests.size());
    for (std::size_t i = begin; i < end; ++i) {
      batch.requests.push_back(job.requests[i]);
      bytes += job.requests[i].bytes;
    }
    seconds += timed([&] { bench.read(batch, machine.read_mode()); });
  }
  return seconds > 0 ? static_cast<double>(bytes) / seconds : 0;
}

void bench_io(const Context& context, const BenchOptions& options) {
  HALFQUAD_REQUIRE(!options.dir.empty(), kUsage, "bench io needs --dir, a directory on the disk to measure");
  HALFQUAD_REQUIRE(context.fs.kind(options.dir) == FileKind::kDirectory, kUsage,
                   fmt::format("--dir: {} is not a directory", quoted(options.dir)));
  IoSession(context, options).run();
}

}  // namespace halfquad
