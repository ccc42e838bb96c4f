require "timeout"

# A copy of the database before the VM is destroyed.
module Copies
  COMMAND = "docker exec users-backend python -m users_backend.admin backup".freeze
  SECONDS = 120

  module_function

  # Raises Settings::Error, and the VM stays, where there is no copy and the VM holds the only database.
  def make(machine, settings)
    return if machine.state.id == :not_created

    machine.ui.info("Copying the database first ...")
    said = Timeout.timeout(SECONDS) { ask(machine) }
    if in_vm?(settings) && !here?(settings, said)
      raise "the copy lies on that disk, too: no volume of the settings brings it here"
    end

    machine.ui.success("#{said}The copy stays in #{settings['data_dir']}/backups.")
  rescue StandardError => e
    reason = e.message.strip.lines.last.to_s.strip
    if !in_vm?(settings)
      machine.ui.warn("No copy was made (#{reason}). The database itself stays in #{settings['data_dir']}/.")
    elsif ENV["WITHOUT_COPY"].to_s.empty?
      raise Settings::Error, "The VM is not destroyed: its disk has the only database, and no copy could be made " \
                             "(#{reason}). Start it (vagrant up), see what is wrong (make doctor), then try again. " \
                             "To lose what no older copy has: WITHOUT_COPY=1 in the environment."
    end
  end

  def ask(machine)
    raise "the VM is not running" unless machine.state.id == :running
    raise "the VM does not answer" unless machine.communicate.ready?

    said = +""
    status = machine.communicate.sudo(COMMAND, error_check: false) { |_stream, text| said << text }
    raise said unless status.zero?

    said
  end

  # Whether the copy that the backend names is in the folder shared with the VM.
  def here?(settings, said)
    copy = said[%r{ copied to \S+/(\S+) }, 1]
    copy && !Dir.glob("**/#{copy}", base: Settings.data_folder(settings)).empty?
  end

  # Whether the VM's own disk has what a service keeps.
  def in_vm?(settings)
    settings["services"].values.flat_map { |service| service["volumes"] || [] }.any? { |volume| volume["shared"].nil? }
  end
end
