#include "models/scheduler_loop.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"

namespace quantd {
namespace {

constexpr absl::Duration kStallTarget = absl::Milliseconds(150);
constexpr int32_t kMinPrefillTokens = 32;
// Slices of other work while sequences decode; without them a slice may fill the workspace.
constexpr int32_t kWorkTokensBesideDecoding = 64;
// How often paused sinks, cancellations and deadlines are looked at when nothing can run.
constexpr std::chrono::milliseconds kIdlePoll(5);

absl::Status Unavailable() {
  return absl::UnavailableError("the model is being unloaded; load it again or try another server");
}

}  // namespace

int32_t PrefillBudget::Tokens(bool others_decode) const {
  if (!others_decode) return max_tokens_;
  const double tokens = tokens_per_second_ * absl::ToDoubleSeconds(kStallTarget);
  // Powers of two: kernels like them, and the sizes stay few.
  int32_t budget = kMinPrefillTokens;
  while (budget * 2 <= tokens && budget * 2 <= max_tokens_) budget *= 2;
  return std::min(budget, max_tokens_);
}

void PrefillBudget::Observe(int32_t tokens, absl::Duration elapsed) {
  if (tokens < kMinPrefillTokens) return;  // mostly decoding: says little about prefill
  const double rate = tokens / std::max(absl::ToDoubleSeconds(elapsed), 1e-6);
  tokens_per_second_ = tokens_per_second_ == 0 ? rate : 0.7 * tokens_per_second_ + 0.3 * rate;
}

SchedulerLoop::SchedulerLoop(std::shared_ptr<Engine> engine, const SchedulerLimits& limits)
    : engine_(std::move(engine)), limits_(limits), prefill_budget_(engine_->max_batch_tokens) {}

void SchedulerLoop::Run() {
  while (TakeIncoming()) {
    Reap();
    Admit();
    PublishActivity();
    const bool stepped = StepGenerations();
    const bool worked = StepWork();
    if (!stepped && !worked) WaitForWork();
  }
  EndAll(Unavailable());
  PublishActivity();
}

absl::Status SchedulerLoop::Submit(std::unique_ptr<Generation> generation) {
  RETURN_IF_ERROR(engine_->kv->CheckFits(generation->max_length()));
  std::lock_guard lock(mutex_);
  if (refusing_) return Unavailable();
  const auto queued = waiting_count_ + static_cast<int32_t>(incoming_.size());
  if (queued >= limits_.max_queued) {
    return absl::ResourceExhaustedError(absl::StrCat("the model's queue is full: ", queued,
                                                     " requests wait, at most ", limits_.max_queued,
                                                     " may; try again later"));
  }
  incoming_.push_back(std::move(generation));
  wake_.notify_one();
  return absl::OkStatus();
}

template <class W>
absl::Status SchedulerLoop::EnqueueIn(std::deque<W*>& queue, W* work) {
  std::lock_guard lock(mutex_);
  if (refusing_) return Unavailable();
  if (work_count_ >= limits_.max_queued) {
    return absl::ResourceExhaustedError(absl::StrCat("the model's queue is full: ", work_count_,
                                                     " requests wait; try again later"));
  }
  ++work_count_;
  queue.push_back(work);
  wake_.notify_one();
  return absl::OkStatus();
}

absl::Status SchedulerLoop::Enqueue(LogitsWork* work) { return EnqueueIn(incoming_logits_, work); }
absl::Status SchedulerLoop::Enqueue(EncodeWork* work) { return EnqueueIn(incoming_encode_, work); }

Model::Activity SchedulerLoop::activity() const {
  std::lock_guard lock(mutex_);
  return {.running = running_count_ + work_count_,
          .queued = waiting_count_ + static_cast<int32_t>(incoming_.size()),
          .batches = batch_sizes_};
}

void SchedulerLoop::Drain(absl::Time deadline) {
  const auto until = absl::ToChronoTime(deadline);
  std::unique_lock lock(mutex_);
  refusing_ = true;
  const auto idle = [this] {
    return incoming_.empty() && running_count_ + waiting_count_ + work_count_ == 0;
  };
  const bool in_time = deadline == absl::InfiniteFuture() ? (drained_.wait(lock, idle), true)
                                                          : drained_.wait_until(lock, until, idle);
  if (in_time) return;
  end_now_ = true;
  wake_.notify_one();
  drained_.wait(lock, idle);
}

void SchedulerLoop::Stop() {
  std::lock_guard lock(mutex_);
  refusing_ = true;
  stopping_ = true;
  wake_.notify_one();
}

bool SchedulerLoop::TakeIncoming() {
  bool end_now = false;
  {
    std::lock_guard lock(mutex_);
    waiting_count_ += static_cast<int32_t>(incoming_.size());
    for (auto& generation : incoming_) waiting_.push_back(std::move(generation));
    incoming_.clear();
    logits_.insert(logits_.end(), incoming_logits_.begin(), incoming_logits_.end());
    incoming_logits_.clear();
    encode_.insert(encode_.end(), incoming_encode_.begin(), incoming_encode_.end());
    incoming_encode_.clear();
    if (stopping_) return false;
    end_now = std::exchange(end_now_, false);  // nothing new comes: refusing_ was set before
  }
  if (end_now) EndAll(Unavailable());
  return true;
}

void SchedulerLoop::EndAll(const absl::Status& status) {
  for (auto& generation : std::exchange(running_, {})) {
    generation->Finish(status);
    Retire(std::move(generation), /*reuse_cache=*/false);
  }
  for (auto& generation : std::exchange(waiting_, {})) generation->Finish(status);
  for (LogitsWork* work : std::exchange(logits_, {})) {
    work->ReturnCaches(*engine_);
    work->Finish(status);
  }
  for (EncodeWork* work : std::exchange(encode_, {})) work->Finish(status);
}

// Ends sequences that are cancelled, late, or paused for too long.
void SchedulerLoop::Reap() {
  const absl::Time now = absl::Now();
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    const absl::Status status = (*it)->CheckAlive(now, limits_.pause_limit);
    if (status.ok()) {
      ++it;
      continue;
    }
    std::unique_ptr<Generation> ended = std::move(*it);
    it = waiting_.erase(it);
    ended->Finish(status);
  }
  for (size_t i = 0; i < running_.size();) {
    const absl::Status status = running_[i]->CheckAlive(now, limits_.pause_limit);
    if (status.ok()) {
      ++i;
      continue;
    }
    std::unique_ptr<Generation> ended = std::move(running_[i]);
    running_.erase(running_.begin() + i);
    ended->Finish(status);
    Retire(std::move(ended), /*reuse_cache=*/true);
  }
}

// First come, first served: a long sequence at the head waits for memory rather than be overtaken
// for ever.
void SchedulerLoop::Admit() {
  while (!waiting_.empty() && static_cast<int32_t>(running_.size()) < limits_.max_sequences) {
    absl::StatusOr<std::unique_ptr<KvCache>> cache =
        engine_->kv->Acquire(waiting_.front()->max_length());
    if (cache.ok() && *cache == nullptr) return;
    std::unique_ptr<Generation> generation = std::move(waiting_.front());
    waiting_.pop_front();
    if (!cache.ok()) {
      generation->Finish(cache.status());
      continue;
    }
    generation->Start(std::move(*cache), absl::Now());
    running_.push_back(std::move(generation));
  }
}

void SchedulerLoop::PublishActivity() {
  std::lock_guard lock(mutex_);
  running_count_ = static_cast<int32_t>(running_.size());
  waiting_count_ = static_cast<int32_t>(waiting_.size());
  work_count_ = static_cast<int32_t>(logits_.size() + encode_.size() + incoming_logits_.size() +
                                     incoming_encode_.size());
  if (incoming_.empty() && running_count_ + waiting_count_ + work_count_ == 0) {
    drained_.notify_all();
  }
}

// Before the step: whoever gets the last token of a sequence finds its steps counted.
void SchedulerLoop::CountStep() {
  std::lock_guard lock(mutex_);
  batch_sizes_.Add(stepped_.size());
}

// One forward pass over everything that can run, then a token for each sequence that asks for one.
bool SchedulerLoop::StepGenerations() {
  BuildBatch();
  if (stepped_.empty()) return false;
  CountStep();
  const size_t vocab = static_cast<size_t>(engine_->config.vocab_size);
  const absl::Time begin = absl::Now();
  const absl::Status status =
      engine_->Forward(batch_, [&](size_t first, std::span<float> logits) -> absl::Status {
        // Here already on the compute thread, unless a device has computed the logits.
        RunCompute(TaskPriority::kInteractive, [&] {
          ParallelFor(static_cast<int64_t>(logits.size() / vocab), [&](int64_t i) {
            sampling_[first + i]->Sample(logits.subspan(i * vocab, vocab));
          });
        });
        return absl::OkStatus();
      });
  prefill_budget_.Observe(prefill_tokens_, absl::Now() - begin);
  FinishStep(status);
  return true;
}

void SchedulerLoop::BuildBatch() {
  batch_.Clear();
  stepped_.clear();
  sampling_.clear();
  prefill_tokens_ = 0;
  AddPieces(/*decoding=*/true, engine_->max_batch_tokens);
  const int32_t room = engine_->max_batch_tokens - batch_.rows();
  AddPieces(/*decoding=*/false, std::min(room, prefill_budget_.Tokens(batch_.rows() > 0)));
}

void SchedulerLoop::AddPieces(bool decoding, int32_t budget) {
  for (const std::unique_ptr<Generation>& generation : running_) {
    if (budget == 0) return;
    if (generation->decoding() != decoding || !generation->CanRun()) continue;
    const std::span<const int32_t> pending = generation->pending();
    const auto piece = pending.first(std::min<size_t>(pending.size(), budget));
    batch_.Add(generation->cache(), piece, generation->position());
    budget -= static_cast<int32_t>(piece.size());
    stepped_.push_back(generation.get());
    if (!decoding) prefill_tokens_ += static_cast<int32_t>(piece.size());
    if (piece.size() < pending.size()) continue;
    batch_.Want(batch_.rows() - 1);
    sampling_.push_back(generation.get());
  }
}

void SchedulerLoop::FinishStep(const absl::Status& status) {
  for (size_t i = 0; i < stepped_.size(); ++i) stepped_[i]->Advance(batch_.sequences[i].rows);
  for (size_t i = 0; i < running_.size();) {
    Generation& generation = *running_[i];
    const bool stepped = std::find(stepped_.begin(), stepped_.end(), &generation) != stepped_.end();
    if (stepped && !status.ok()) {
      generation.Finish(status);
    } else if (stepped) {
      generation.Deliver();
    }
    if (!generation.finished()) {
      ++i;
      continue;
    }
    std::unique_ptr<Generation> ended = std::move(running_[i]);
    running_.erase(running_.begin() + i);
    const bool clean = status.ok() && !ended->is_poisoned();
    Retire(std::move(ended), clean);
  }
}

void SchedulerLoop::Retire(std::unique_ptr<Generation> generation, bool reuse_cache) {
  std::unique_ptr<KvCache> cache = generation->TakeCache();
  if (reuse_cache) {
    engine_->kv->Release(std::move(cache));
  } else {
    engine_->kv->Discard(std::move(cache));
  }
}

// One slice of the other work; false when there is none that can run.
bool SchedulerLoop::StepWork() {
  if (!encode_.empty()) {
    EncodeWork::RunSlice(*engine_, encode_);
    return true;
  }
  if (logits_.empty()) return false;
  LogitsWork* work = logits_.front();
  const int32_t tokens = running_.empty()
                             ? engine_->max_batch_tokens
                             : std::min(kWorkTokensBesideDecoding, engine_->max_batch_tokens);
  const absl::StatusOr<bool> done = work->RunSlice(*engine_, tokens);
  if (done.ok() && !*done) return !work->waits_for_memory();
  if (!done.ok()) work->ReturnCaches(*engine_);
  logits_.pop_front();
  work->Finish(done.status());
  return true;
}

bool SchedulerLoop::HasTimedWaits() const {
  return !waiting_.empty() || !running_.empty() || !logits_.empty();
}

void SchedulerLoop::WaitForWork() {
  PublishActivity();
  std::unique_lock lock(mutex_);
  const auto woken = [this] {
    return stopping_ || end_now_ || !incoming_.empty() || !incoming_logits_.empty() ||
           !incoming_encode_.empty();
  };
  if (HasTimedWaits()) {
    wake_.wait_for(lock, kIdlePoll, woken);
  } else {
    wake_.wait(lock, woken);
  }
}

}  // namespace quantd
