require "net/http"

# Waits, after `vagrant up` and `reload`, until the services answer on this computer: in a VM that has just booted they
# are still starting.
module Health
  PATIENCE = 180 # seconds; an emulated CPU may need one of them

  module_function

  # Raises Settings::Error for a service that does not answer in time. A VM that was not provisioned yet has none.
  def wait(machine, settings)
    return unless machine.data_dir.join("action_provision").file? # Vagrant's own mark

    last = now + PATIENCE
    Settings.forwards(settings).each do |forward|
      service = settings["services"][forward[:name]] or next # its https leads to the same
      url = forward[:url] + service["health_path"]
      next unless problem_at(url)

      machine.ui.info("Waiting until #{forward[:name]} answers at #{url} ...")
      sleep 1 while (problem = problem_at(url)) && now < last
      next unless problem

      raise Settings::Error,
            "The VM runs, but #{forward[:name]} does not answer at #{url} (#{problem}). Look at its log " \
            "(vagrant ssh --command \"sudo journalctl --no-pager --unit users-#{forward[:name]} --lines 50\"), " \
            "then run `vagrant reload --provision`."
    end
  end

  # What is wrong there, past any proxy; nil if nothing is.
  def problem_at(url)
    uri = URI(url)
    answer = Net::HTTP.start(uri.host, uri.port, nil, open_timeout: 5, read_timeout: 5) { |http| http.get(uri.request_uri) }
    "it says #{answer.code}" unless answer.code.start_with?("2", "3") # as in the role service's deploy.sh
  rescue SystemCallError, IOError, Timeout::Error, Net::ProtocolError, Net::HTTPBadResponse => e
    e.message
  end

  def now
    Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end
end
