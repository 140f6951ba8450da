// quantctl status
#include <cstdio>

#include "client/quantctl/context.h"
#include "client/quantctl/text.h"

namespace quantd::ctl {

void AddStatus(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand("status", "version, threads, devices and load of the server");
  verb->callback([&context] {
    context.run = [](Context& ctx) -> absl::Status {
      auto client = ctx.client();
      if (!client.ok()) return client.status();
      const auto status = (*client)->GetServerStatus(ctx.call());
      if (!status.ok()) return status.status();
      if (ctx.json()) {
        ctx.PrintJson(*status);
        return absl::OkStatus();
      }
      std::printf("quantd %s, up %s%s\n", status->version().c_str(),
                  HumanDuration(absl::Seconds(status->uptime_seconds())).c_str(),
                  status->draining() ? ", draining" : "");
      std::printf("%d compute threads (%d CPUs granted), %s kernels\n", status->threads(),
                  status->available_cpus(), status->isa().c_str());
      std::printf("memory %s of %s\n", HumanBytes(status->resident_bytes()).c_str(),
                  HumanBytes(status->memory_limit_bytes()).c_str());
      for (const quant::v1::Device& device : status->devices()) {
        std::printf("device %s: %s, %s\n", device.id().c_str(), device.description().c_str(),
                    HumanBytes(device.memory_bytes()).c_str());
      }
      std::printf("%d models loaded, %d operations and %d sequences running\n",
                  status->loaded_models(), status->running_operations(),
                  status->running_sequences());
      return absl::OkStatus();
    };
  });
}

}  // namespace quantd::ctl
