// quantctl embed MODEL TEXT...
#include <cmath>
#include <cstdio>

#include "absl/strings/str_format.h"
#include "client/quantctl/context.h"
#include "client/quantctl/text.h"

namespace quantd::ctl {
namespace {

constexpr int kShownValues = 6;

double Cosine(const quant::v1::EmbedResponse::Embedding& a,
              const quant::v1::EmbedResponse::Embedding& b) {
  double dot = 0, norm_a = 0, norm_b = 0;
  for (int i = 0; i < a.values_size(); ++i) {
    dot += static_cast<double>(a.values(i)) * b.values(i);
    norm_a += static_cast<double>(a.values(i)) * a.values(i);
    norm_b += static_cast<double>(b.values(i)) * b.values(i);
  }
  return norm_a > 0 && norm_b > 0 ? dot / std::sqrt(norm_a * norm_b) : 0;
}

// The first values of each embedding, and how alike every two texts are.
void PrintText(const quant::v1::EmbedResponse& response, const std::vector<std::string>& texts) {
  for (int i = 0; i < response.embeddings_size(); ++i) {
    const auto& embedding = response.embeddings(i);
    std::printf("%d: [", i);
    for (int k = 0; k < std::min(kShownValues, embedding.values_size()); ++k) {
      std::printf("%s%.5f", k > 0 ? ", " : "", embedding.values(k));
    }
    std::printf(", ...] %d values, %d tokens: %s\n", embedding.values_size(), embedding.tokens(),
                texts[i].c_str());
  }
  for (int i = 0; i < response.embeddings_size(); ++i) {
    for (int k = i + 1; k < response.embeddings_size(); ++k) {
      std::printf("cosine(%d, %d) = %.4f\n", i, k,
                  Cosine(response.embeddings(i), response.embeddings(k)));
    }
  }
}

}  // namespace

void AddEmbed(CLI::App& app, Context& context) {
  struct Flags {
    std::string model;
    std::vector<std::string> texts;
    bool truncate = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("embed", "sentence embeddings");
  verb->add_option("model", flags->model, "a loaded encoder")->required();
  verb->add_option("texts", flags->texts, "one or more texts")->required();
  verb->add_flag("--truncate", flags->truncate, "cut texts that are too long");
  verb->callback([&context, flags] {
    context.run = [flags](Context& ctx) -> absl::Status {
      auto client = ctx.client();
      if (!client.ok()) return client.status();
      if (absl::Status status = ctx.EnsureLoaded(flags->model); !status.ok()) return status;
      quant::v1::EmbedRequest request;
      request.set_model(flags->model);
      request.set_truncate(flags->truncate);
      for (const std::string& text : flags->texts) request.add_texts(text);
      const auto response = (*client)->Embed(request, ctx.call());
      if (!response.ok()) return response.status();
      if (ctx.json()) {
        ctx.PrintJson(*response);
      } else {
        PrintText(*response, flags->texts);
      }
      return absl::OkStatus();
    };
  });
}

}  // namespace quantd::ctl
