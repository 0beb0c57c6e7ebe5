#include <iostream>
#include <memory>
#include <string>
#include <unistd.h>
#include <vector>

#include "io/posix_file_system.h"
#include "launcher/cli.h"
#include "launcher/signals.h"

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  halfquad::StopFlag stop;
  const halfquad::SignalHandlers handlers(stop);
  const std::unique_ptr<halfquad::FileSystem> fs = halfquad::make_posix_file_system();
  const halfquad::Context context{*fs, stop, std::cout, std::cerr, halfquad::read_environment(environ)};
  return halfquad::run_cli({argv + 1, argv + argc}, context);
}
