#include "formats/mapped_file.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/io_error.h"

namespace quantd {
namespace {

// What the signal handler may read: lock-free, of fixed size. `begin` is 0 in a free slot.
struct Slot {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<bool> torn{false};
};
constexpr int kSlots = 4096;
Slot g_slots[kSlots];
struct sigaction g_previous;
uintptr_t g_page_size;

// The pages that `bytes` lie in.
struct Pages {
  explicit Pages(std::span<const std::byte> bytes) {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    begin = reinterpret_cast<uintptr_t>(bytes.data()) & ~(page - 1);
    end = reinterpret_cast<uintptr_t>(bytes.data() + bytes.size());
  }
  void Advise(int advice) const {
    if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, advice);
  }
  uintptr_t begin, end;
};

void OnBusError(int signal_number, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (Slot& slot : g_slots) {
    const uintptr_t begin = slot.begin.load(std::memory_order_acquire);
    const uintptr_t end = slot.end.load(std::memory_order_acquire);
    if (begin == 0 || address < begin || address >= end) continue;
    slot.torn.store(true, std::memory_order_release);
    const int saved_errno = errno;
    void* page = reinterpret_cast<void*>(address & ~(g_page_size - 1));
    void* zeros =
        mmap(page, g_page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    errno = saved_errno;
    if (zeros == page) return;
  }
  if ((g_previous.sa_flags & SA_SIGINFO) != 0 && g_previous.sa_sigaction != nullptr) {
    g_previous.sa_sigaction(signal_number, info, context);
  } else if (g_previous.sa_handler != SIG_DFL && g_previous.sa_handler != SIG_IGN) {
    g_previous.sa_handler(signal_number);
  } else {
    signal(SIGBUS, SIG_DFL);  // the faulting instruction runs again and ends the process
  }
}

void InstallHandler() {
  static std::once_flag once;
  std::call_once(once, [] {
    g_page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action = {};
    action.sa_sigaction = OnBusError;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGBUS, &action, &g_previous);
  });
}

int TakeSlot(uintptr_t begin, uintptr_t end) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  for (int i = 0; i < kSlots; ++i) {
    if (g_slots[i].begin.load(std::memory_order_relaxed) != 0) continue;
    g_slots[i].torn.store(false);
    g_slots[i].end.store(end);
    g_slots[i].begin.store(begin, std::memory_order_release);
    return i;
  }
  return -1;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Map(std::shared_ptr<const File> file) {
  if (file->size() == 0) {
    return std::unique_ptr<MappedFile>(new MappedFile(std::move(file), {}, -1));
  }
  InstallHandler();
  void* mapping = mmap(nullptr, file->size(), PROT_READ, MAP_SHARED, file->fd(), 0);
  if (mapping == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot map '", file->name(), "' (", file->size(), " bytes) into memory"));
  }
  const auto begin = reinterpret_cast<uintptr_t>(mapping);
  const int slot = TakeSlot(begin, begin + file->size());
  if (slot < 0) {
    munmap(mapping, file->size());
    return absl::ResourceExhaustedError(absl::StrCat("more than ", kSlots, " files are mapped"));
  }
  const std::span bytes(static_cast<const std::byte*>(mapping), file->size());
  return std::unique_ptr<MappedFile>(new MappedFile(std::move(file), bytes, slot));
}

MappedFile::~MappedFile() {
  if (slot_ < 0) return;
  munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  g_slots[slot_].begin.store(0, std::memory_order_release);
}

absl::Status MappedFile::CheckIntact() const {
  if (slot_ >= 0 && g_slots[slot_].torn.load(std::memory_order_acquire)) {
    return absl::DataLossError(
        absl::StrCat("'", file_->name(), "' was cut while it was in use; load or start again"));
  }
  return file_->CheckUnchanged();
}

void MappedFile::Release(std::span<const std::byte> part) const {
  Pages(part).Advise(MADV_DONTNEED);
}

SharedTensor Lend(std::shared_ptr<const MappedFile> mapping, TensorView view) {
  const std::span<const std::byte> bytes = view.bytes;
  std::shared_ptr<const void> owner(bytes.data(),
                                    [mapping, bytes](const void*) { mapping->Release(bytes); });
  return {std::move(view), std::move(owner),
          [mapping = std::move(mapping)] { return mapping->CheckIntact(); }};
}

void ReadAhead(std::span<const std::byte> part) {
  constexpr size_t kPiece = 128 << 10;  // the kernel cuts longer requests to about that
  for (size_t at = 0; at < part.size(); at += kPiece) {
    Pages(part.subspan(at, std::min(kPiece, part.size() - at))).Advise(MADV_WILLNEED);
  }
}

void Populate(std::span<const std::byte> part) {
#if defined(MADV_POPULATE_READ)
  Pages(part).Advise(MADV_POPULATE_READ);
#endif
}

}  // namespace quantd
