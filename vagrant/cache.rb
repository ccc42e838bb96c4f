require "fileutils"
require "shellwords"
require "timeout"

# Keeps what a VM fetched and built, so that the next one needs no network for it: cache.sh, which runs in the VM.
module Cache
  SECONDS = 300

  module_function

  # The folder as the VM sees it; "" where nothing is kept.
  def folder(settings)
    settings["cache_dir"].empty? ? "" : "/vagrant/#{settings['cache_dir']}"
  end

  # Never stops `vagrant destroy`: the cache saves time, and is no more than that.
  def keep(machine, settings)
    return if settings["cache_dir"].empty? || machine.state.id != :running

    raise "the VM does not answer" unless machine.communicate.ready?

    machine.ui.info("Keeping packages and images for the next VM in #{settings['cache_dir']} ...")
    FileUtils.mkdir_p(File.join(Settings::ROOT, settings["cache_dir"])) # by its user, who can then empty it
    command = ["bash", "/vagrant/vagrant/cache.sh", "keep", folder(settings), settings["image"]["base"]].shelljoin
    said = +""
    status = Timeout.timeout(SECONDS) do
      machine.communicate.sudo(command, error_check: false) { |_stream, text| said << text }
    end
    raise said unless status.zero?

    machine.ui.success(said.empty? ? "Nothing in it is new." : said.strip)
  rescue StandardError => e
    reason = e.message.strip.lines.last.to_s.strip.chomp(".")
    machine.ui.warn("The cache was not renewed (#{reason}). The next VM fetches what it lacks.")
  end
end
