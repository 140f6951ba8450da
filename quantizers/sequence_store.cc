#include "quantizers/sequence_store.h"

#include <span>
#include <utility>

#include "quantizers/checkpoint_sink.h"

namespace quantd {

void SequenceStore::Clear() {
  places_.clear();
  held_bytes_ = 0;
  if (file_ == nullptr) return;
  file_.reset();
  // A file that stays is removed with the job's others.
  sink_->RemoveScratch(name_).IgnoreError();
}

absl::Status SequenceStore::Append(FloatBuffer values) {
  const uint64_t bytes = values.size() * sizeof(float);
  if (sink_ == nullptr || held_bytes_ + bytes <= memory_bytes_) {
    held_bytes_ += bytes;
    places_.push_back({std::move(values)});
    return absl::OkStatus();
  }
  if (file_ == nullptr) {
    ASSIGN_OR_RETURN(file_, sink_->CreateScratch(name_));
  }
  const uint64_t offset = file_->size();
  RETURN_IF_ERROR(file_->Append(std::as_bytes(std::span(values))));
  places_.push_back({{}, offset, values.size()});
  return absl::OkStatus();
}

absl::Status SequenceStore::Take(size_t sequence, FloatBuffer& values) {
  Place& place = places_[sequence];
  if (place.in_file == 0) {
    values.swap(place.values);
    return absl::OkStatus();
  }
  values.resize(place.in_file);
  return file_->ReadAt(place.offset, std::as_writable_bytes(std::span(values)));
}

void SequenceStore::Return(size_t sequence, FloatBuffer& values) {
  if (places_[sequence].in_file == 0) values.swap(places_[sequence].values);
}

}  // namespace quantd
