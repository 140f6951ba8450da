#include <algorithm>
#include <cmath>

#include "kernels/matrix_product.h"
#include "quantizers/solvers/additive_problem.h"
#include "quantizers/solvers/vector_search.h"

namespace quantd {
namespace {

constexpr int64_t kBand = 16;     // bands of rows searched together
constexpr int64_t kColumns = 64;  // about so many columns' products are made at a time

// Some tiles across, in the order in which they are searched, and what all bands share of them.
struct Batch {
  std::vector<int64_t> tiles;
  std::vector<std::vector<int64_t>> books;  // order of the codebooks in each tile
  std::vector<float> panel;                 // columns of the gram matrix, [cols, width()]
  std::vector<float> penalties;             // c G c^T: [tiles, codebooks, entries]
  int64_t tile_width = 0;

  int64_t width() const { return static_cast<int64_t>(tiles.size()) * tile_width; }
};

// One version of a band: W - W', its products with the batch's columns, its codes.
struct Version {
  std::vector<float> difference;  // [out group, cols]
  std::vector<float> product;     // [out group, batch width]
  std::vector<int32_t> codes;     // [tiles, codebooks]
  double error = 0;               // against that of the first
};

class Search {
 public:
  Search(const AdditiveProblem& p, AdditiveResult* state)
      : p_(p), state_(state), beams_(p.groups()) {
    const int64_t length = p.spec.entries() * p.spec.size();
    for (int m = 0; m < p.spec.num_codebooks; ++m) {
      codebooks_.emplace_back(std::span<const float>(state->codebooks).subspan(m * length, length),
                              p.spec.size());
    }
  }

  absl::Status Run(uint64_t seed) {
    RETURN_IF_ERROR(CheckStopped(p_.stopped));
    ParallelFor(p_.groups(), [&](int64_t group) { Start(group); });
    SeededRandom random(seed);
    const std::vector<int64_t> order = random.Permutation(p_.tiles());
    const int64_t step = std::max<int64_t>(1, kColumns / p_.spec.in_group_size);
    for (int64_t first = 0; first < p_.tiles(); first += step) {
      const int64_t end = std::min(first + step, p_.tiles());
      ASSIGN_OR_RETURN(const Batch batch,
                       MakeBatch({order.begin() + first, order.begin() + end}, random));
      RETURN_IF_ERROR(SearchBatch(batch));
    }
    ParallelFor(p_.groups(), [&](int64_t group) { Finish(group); });
    return absl::OkStatus();
  }

 private:
  void Start(int64_t group) {
    Version& version = beams_[group].emplace_back();
    version.difference.resize(p_.group_size());
    p_.Difference(*state_, group, version.difference.data());
    const int64_t codes = p_.tiles() * p_.spec.num_codebooks;
    version.codes.assign(state_->codes.begin() + group * codes,
                         state_->codes.begin() + (group + 1) * codes);
  }

  void Finish(int64_t group) {
    const Version& best = beams_[group].front();  // they are sorted
    std::copy(best.codes.begin(), best.codes.end(),
              state_->codes.begin() + group * static_cast<int64_t>(best.codes.size()));
  }

  absl::StatusOr<Batch> MakeBatch(std::vector<int64_t> tiles, SeededRandom& random) const {
    const int64_t width = p_.spec.in_group_size;
    Batch batch;
    batch.tiles = std::move(tiles);
    batch.tile_width = width;
    for (size_t t = 0; t < batch.tiles.size(); ++t) {
      batch.books.push_back(random.Permutation(p_.spec.num_codebooks));
    }
    batch.panel.resize(p_.cols * batch.width());
    RETURN_IF_ERROR(
        ParallelPieces(p_.cols, static_cast<double>(batch.width()), p_.stopped, [&](int64_t row) {
          for (size_t t = 0; t < batch.tiles.size(); ++t) {
            std::copy_n(
                p_.gram.begin() + row * p_.cols + batch.tiles[t] * width, width,
                batch.panel.begin() + row * batch.width() + static_cast<int64_t>(t) * width);
          }
        }));
    const int64_t entries = p_.spec.entries() * p_.spec.num_codebooks;
    batch.penalties.resize(static_cast<int64_t>(batch.tiles.size()) * entries);
    constexpr int64_t kChunk = 64;
    const int64_t chunks = (static_cast<int64_t>(batch.penalties.size()) + kChunk - 1) / kChunk;
    const double operations = static_cast<double>(kChunk * p_.spec.size() * width);
    RETURN_IF_ERROR(ParallelPieces(chunks, operations, p_.stopped, [&](int64_t chunk) {
      const auto end = std::min<int64_t>(batch.penalties.size(), (chunk + 1) * kChunk);
      for (int64_t i = chunk * kChunk; i < end; ++i) {
        batch.penalties[i] = Penalty(batch.tiles[i / entries], i % entries);
      }
    }));
    return batch;
  }

  // c G c^T of an entry, summed over its rows, with the block G of the tile's columns.
  float Penalty(int64_t tile, int64_t entry) const {
    const int64_t width = p_.spec.in_group_size;
    const float* vector = state_->codebooks.data() + entry * p_.spec.size();
    const float* block = p_.gram.data() + tile * width * (p_.cols + 1);
    float penalty = 0;
    for (int64_t a = 0; a < p_.spec.out_group_size; ++a, vector += width) {
      for (int64_t i = 0; i < width; ++i) {
        float sum = 0;
        for (int64_t j = 0; j < width; ++j) sum += block[i * p_.cols + j] * vector[j];
        penalty += sum * vector[i];
      }
    }
    return penalty;
  }

  absl::Status SearchBatch(const Batch& batch) {
    std::vector<SearchableCodebook> books;  // with the penalties of each tile
    const int64_t entries = p_.spec.entries();
    for (size_t t = 0; t < batch.tiles.size(); ++t) {
      for (int m = 0; m < p_.spec.num_codebooks; ++m) {
        books.push_back(codebooks_[m]);
        books.back().SetPenalties(std::span<const float>(batch.penalties)
                                      .subspan((t * p_.spec.num_codebooks + m) * entries, entries));
      }
    }
    const double searching = static_cast<double>(books.size()) * entries * p_.spec.size();
    const double multiplying = static_cast<double>(p_.group_size() * batch.width());
    const double operations = kBand * p_.spec.beam_size * (searching + multiplying);
    const int64_t bands = (p_.groups() + kBand - 1) / kBand;
    return ParallelPieces(bands, operations, p_.stopped, [&](int64_t band) {
      const int64_t first = band * kBand, end = std::min(first + kBand, p_.groups());
      Multiply(batch, first, end);
      for (size_t t = 0; t < batch.tiles.size(); ++t) {
        for (const int64_t m : batch.books[t]) {
          const SearchableCodebook& book = books[t * p_.spec.num_codebooks + m];
          if (p_.spec.beam_size == 1) {
            Replace(batch, t, m, book, first, end);
          } else {
            for (int64_t group = first; group < end; ++group) Branch(batch, t, m, book, group);
          }
        }
      }
    });
  }

  // The products of all versions of some bands with the batch's columns.
  void Multiply(const Batch& batch, int64_t first, int64_t end) {
    std::vector<Version*> versions;
    std::vector<float> rows;
    for (int64_t group = first; group < end; ++group) {
      for (Version& version : beams_[group]) {
        versions.push_back(&version);
        rows.insert(rows.end(), version.difference.begin(), version.difference.end());
      }
    }
    const auto count = static_cast<int64_t>(versions.size());
    const int64_t size = p_.spec.out_group_size * batch.width();
    std::vector<float> products(count * size);
    AddMatrixProduct(count * p_.spec.out_group_size, batch.width(), p_.cols, {rows.data(), p_.cols},
                     {batch.panel.data(), batch.width()}, products.data(), batch.width());
    for (int64_t i = 0; i < count; ++i) {
      versions[i]->product.assign(products.begin() + i * size, products.begin() + (i + 1) * size);
    }
  }

  int32_t& CodeOf(Version& version, int64_t tile, int64_t m) const {
    return version.codes[tile * p_.spec.num_codebooks + m];
  }
  const float* VectorOf(int64_t m, int64_t code) const {
    return state_->codebooks.data() + (m * p_.spec.entries() + code) * p_.spec.size();
  }

  // What an entry is multiplied with in the error: s (W - W' + s c) G, where c is the present one.
  void Target(const Batch& batch, size_t t, int64_t m, float scale, Version& version,
              float* out) const {
    const int64_t width = p_.spec.in_group_size, tile = batch.tiles[t];
    const float* now = VectorOf(m, CodeOf(version, tile, m));
    const float* block = p_.gram.data() + tile * width * (p_.cols + 1);
    for (int64_t a = 0; a < p_.spec.out_group_size; ++a) {
      const float* product =
          version.product.data() + a * batch.width() + static_cast<int64_t>(t) * width;
      for (int64_t i = 0; i < width; ++i) {
        float sum = 0;
        for (int64_t j = 0; j < width; ++j) sum += block[i * p_.cols + j] * now[a * width + j];
        out[a * width + i] = scale * (product[i] + scale * sum);
      }
    }
  }

  void SetCode(const Batch& batch, size_t t, int64_t m, float scale, int32_t code,
               Version& version) const {
    const int64_t width = p_.spec.in_group_size, tile = batch.tiles[t];
    int32_t& now = CodeOf(version, tile, m);
    if (now == code) return;
    const float* from = VectorOf(m, now);
    const float* to = VectorOf(m, code);
    for (int64_t i = 0; i < p_.spec.size(); ++i) {
      const int64_t a = i / width, column = tile * width + i % width;
      const float change = scale * (from[i] - to[i]);
      version.difference[a * p_.cols + column] += change;
      const float* line = batch.panel.data() + column * batch.width();
      float* product = version.product.data() + a * batch.width();
      for (int64_t c = 0; c < batch.width(); ++c) product[c] += change * line[c];
    }
    now = code;
  }

  // The best entry for the only version of each band.
  void Replace(const Batch& batch, size_t t, int64_t m, const SearchableCodebook& book,
               int64_t first, int64_t end) {
    float factors[kBand], costs[kBand];
    int32_t entries[kBand];
    std::vector<float> targets((end - first) * p_.spec.size());
    for (int64_t group = first; group < end; ++group) {
      const float scale = state_->scales[group];
      factors[group - first] = 0.5f * scale * scale;
      Target(batch, t, m, scale, beams_[group].front(),
             targets.data() + (group - first) * p_.spec.size());
    }
    BestVectorSearch().best(book.table(), targets.data(), factors, end - first, entries, costs);
    for (int64_t group = first; group < end; ++group) {
      SetCode(batch, t, m, state_->scales[group], entries[group - first], beams_[group].front());
    }
  }

  struct Candidate {
    double error;
    size_t parent;
    int32_t code;
    bool operator<(const Candidate& other) const {
      if (error != other.error) return error < other.error;
      return parent != other.parent ? parent < other.parent : code < other.code;
    }
  };

  // The best versions that one other code makes of the versions of a band.
  void Branch(const Batch& batch, size_t t, int64_t m, const SearchableCodebook& book,
              int64_t group) {
    std::vector<Version>& beam = beams_[group];
    const float scale = state_->scales[group];
    const auto width = static_cast<size_t>(p_.spec.beam_size);
    std::vector<float> target(p_.spec.size()), costs(book.table().entries);
    std::vector<Candidate> candidates;
    for (size_t parent = 0; parent < beam.size(); ++parent) {
      Target(batch, t, m, scale, beam[parent], target.data());
      BestVectorSearch().costs(book.table(), target.data(), 0.5f * scale * scale, costs.data());
      const double now = costs[CodeOf(beam[parent], batch.tiles[t], m)];
      std::vector<Candidate> own(p_.spec.entries());
      for (int32_t code = 0; code < p_.spec.entries(); ++code) {
        own[code] = {beam[parent].error + 2 * (costs[code] - now), parent, code};
      }
      const size_t kept = std::min(width, own.size());
      std::partial_sort(own.begin(), own.begin() + static_cast<int64_t>(kept), own.end());
      candidates.insert(candidates.end(), own.begin(), own.begin() + static_cast<int64_t>(kept));
    }
    std::sort(candidates.begin(), candidates.end());
    std::vector<Version> next;
    for (const Candidate& candidate : candidates) {
      if (next.size() == width) break;
      Version version = beam[candidate.parent];
      SetCode(batch, t, m, scale, candidate.code, version);
      version.error = candidate.error;
      const bool known = std::any_of(next.begin(), next.end(), [&](const Version& other) {
        return other.codes == version.codes;
      });
      if (!known) next.push_back(std::move(version));
    }
    beam = std::move(next);
  }

  const AdditiveProblem& p_;
  AdditiveResult* state_;
  std::vector<SearchableCodebook> codebooks_;
  std::vector<std::vector<Version>> beams_;  // of every band, best first
};

}  // namespace

absl::Status SearchCodes(const AdditiveProblem& problem, uint64_t seed, AdditiveResult* state) {
  return Search(problem, state).Run(seed);
}

}  // namespace quantd
