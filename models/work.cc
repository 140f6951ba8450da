#include "models/work.h"

#include <algorithm>
#include <utility>

#include "core/parallel.h"

namespace quantd {

void Work::Finish(absl::Status status) {
  // Notified under the lock: the caller may destroy this as soon as it sees the status.
  std::lock_guard lock(mutex_);
  status_ = std::move(status);
  finished_.notify_one();
}

absl::Status Work::Stopped() { return absl::CancelledError("the caller has gone"); }

absl::Status Work::Wait() {
  std::unique_lock lock(mutex_);
  finished_.wait(lock, [this] { return status_.has_value(); });
  return *status_;
}

void LogitsWork::AddPiece(Active& active, int32_t tokens) {
  const std::vector<int32_t>& sequence = sequences_[active.sequence];
  const int32_t first_row = batch_.rows();
  batch_.Add(active.cache.get(), std::span(sequence).subspan(active.position, tokens),
             active.position);
  for (int32_t i = 0; i < tokens; ++i) {
    const int32_t position = active.position + i;
    if (position < first_position_) continue;
    batch_.Want(first_row + i);
    rows_.push_back({active.sequence, position});
  }
  active.position += tokens;
}

absl::Status LogitsWork::FillBatch(Engine& engine, int32_t max_tokens) {
  batch_.Clear();
  rows_.clear();
  while (batch_.rows() < max_tokens) {
    const bool continues = batch_.rows() == 0 && !active_.empty();
    if (!continues) {
      if (next_sequence_ == sequences_.size()) break;
      const auto length = static_cast<int32_t>(sequences_[next_sequence_].size());
      ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache, engine.kv->Acquire(length));
      if (cache == nullptr) break;
      active_.push_back({.sequence = next_sequence_++, .cache = std::move(cache)});
    }
    Active& active = active_.back();
    const auto length = static_cast<int32_t>(sequences_[active.sequence].size());
    AddPiece(active, std::min(length - active.position, max_tokens - batch_.rows()));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> LogitsWork::RunSlice(Engine& engine, int32_t max_tokens) {
  if (stopped()) return Stopped();
  RETURN_IF_ERROR(FillBatch(engine, max_tokens));
  if (batch_.rows() == 0) return next_sequence_ == sequences_.size();
  const size_t vocab = static_cast<size_t>(engine.config.vocab_size);
  RETURN_IF_ERROR(engine.Forward(batch_, [&](size_t first, std::span<float> logits) {
    // Blocks of consecutive positions of one sequence.
    const size_t count = logits.size() / vocab;
    for (size_t begin = 0; begin < count;) {
      const Row& row = rows_[first + begin];
      size_t end = begin + 1;
      while (end < count && rows_[first + end].sequence == row.sequence) ++end;
      RETURN_IF_ERROR(
          visit_(row.sequence, row.position, logits.subspan(begin * vocab, (end - begin) * vocab)));
      begin = end;
    }
    return absl::OkStatus();
  }));
  while (!active_.empty() &&
         active_.front().position ==
             static_cast<int32_t>(sequences_[active_.front().sequence].size())) {
    engine.kv->Release(std::move(active_.front().cache));
    active_.pop_front();
  }
  return active_.empty() && next_sequence_ == sequences_.size();
}

void LogitsWork::ReturnCaches(Engine& engine) {
  for (Active& active : active_) engine.kv->Discard(std::move(active.cache));
  active_.clear();
}

void EncodeWork::FinishStopped(std::deque<EncodeWork*>& queue) {
  std::erase_if(queue, [](EncodeWork* work) {
    if (!work->stopped()) return false;
    work->Finish(Stopped());
    return true;
  });
}

void EncodeWork::RunSlice(Engine& engine, std::deque<EncodeWork*>& queue) {
  FinishStopped(queue);
  if (queue.empty()) return;
  struct Piece {
    EncodeWork* work;
    size_t index;
  };
  Batch batch;
  std::vector<Piece> pieces;
  // In turn, so that a short request does not wait for all of a long one.
  for (bool added = true; added;) {
    added = false;
    for (EncodeWork* work : queue) {
      if (work->all_started()) continue;
      const std::vector<int32_t>& sequence = work->sequences_[work->next_];
      if (batch.rows() + static_cast<int64_t>(sequence.size()) > engine.max_batch_tokens) continue;
      batch.Add(nullptr, sequence, 0);
      pieces.push_back({work, work->next_++});
      added = true;
    }
  }
  const size_t hidden = static_cast<size_t>(engine.config.hidden_size);
  std::vector<float> states(batch.ids.size() * hidden);
  absl::Status status;
  engine.RunInteractive(
      [&] { status = engine.encoder->Forward(batch.ids, batch.sequences, states); });
  for (size_t i = 0; status.ok() && i < pieces.size(); ++i) {
    const SequenceRows& rows = batch.sequences[i];
    const auto begin = states.begin() + rows.first_row * hidden;
    Model::Encoding& result = pieces[i].work->results_[pieces[i].index];
    result.last_hidden_state.assign(begin, begin + rows.rows * hidden);
    result.sentence_embedding =
        PoolSentence(engine.config, result.last_hidden_state, pieces[i].work->normalize_);
  }
  // A request is done when its last sequence has been in a pass, all before it were too.
  for (auto it = queue.begin(); it != queue.end();) {
    EncodeWork* work = *it;
    const bool hit = std::any_of(pieces.begin(), pieces.end(),
                                 [work](const Piece& piece) { return piece.work == work; });
    if (work->all_started() || (!status.ok() && hit)) {
      it = queue.erase(it);
      work->Finish(status);
    } else {
      ++it;
    }
  }
}

}  // namespace quantd
